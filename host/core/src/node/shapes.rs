//! Recognizes credentials by their shape, in text that others wrote. A plugin that logs in gets tokens that
//! the host never sees, and the host knows no product. So the rules are what credentials look like in
//! general.
//!
//! A message is reported so that somebody can fix its cause, and provider modules recognize failures by their
//! words. So prose is not masked: "failed to renew the token: permission denied" contains no token.

use std::ops::Range;

use super::scrub::MASK;

/// Parts of the names of headers and keys whose values are secret.
const SECRET: [&str; 9] = [
    "access-key",
    "access_key",
    "api-key",
    "api_key",
    "apikey",
    "authorization",
    "password",
    "secret",
    "token",
];
/// Ends of such names whose values are not the secret, but its place, its lifetime or its use.
const ABOUT: [&str; 8] = ["accessor", "file", "name", "path", "policies", "ttl", "type", "uses"];
/// A credential follows these words, with only spaces between.
const SCHEMES: [&str; 2] = ["basic", "bearer"];
/// Random parts of tokens have at least this many characters, words of prose and host names rarely.
const MIN_RANDOM: usize = 20;
/// A shorter value that is followed by text is rather the beginning of that text: "403 Forbidden", "x509: …".
const MIN_VALUE: usize = 8;

/// The text with each credential replaced by `***`. Masking it again changes nothing.
pub(super) fn mask(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(is_of_word) {
        let (between, from) = rest.split_at(begin);
        let (word, after) = from.split_at(from.find(|c: char| !is_of_word(c)).unwrap_or(from.len()));
        shown.push_str(between);
        // The last name of a path: the text after it describes the file.
        let is_path = shown.ends_with('/');
        rest = after;
        if is_token(word) {
            shown.push_str(MASK);
            continue;
        }
        shown.push_str(word);
        let found = if is_scheme(word) {
            credential(after)
        } else if let Some(user) = user_of_url(after) {
            Some(user)
        } else if is_path {
            None
        } else {
            value(word, after)
        };
        if let Some(Range { start, end }) = found {
            shown.push_str(after.split_at(start).0);
            shown.push_str(MASK);
            rest = after.split_at(end).1;
        }
    }
    shown.push_str(rest);
    shown
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

fn ends_value(c: char) -> bool {
    c.is_whitespace()
        || matches!(
            c,
            '"' | '\'' | '`' | '\\' | ',' | ';' | '&' | '|' | '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>'
        )
}

fn is_scheme(word: &str) -> bool {
    SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// A JWT, or a short prefix and a random part with a dot between.
fn is_token(word: &str) -> bool {
    let mut parts = word.trim_end_matches('.').split('.');
    let (Some(first), Some(second)) = (parts.next(), parts.next()) else { return false };
    if first.starts_with("eyJ") {
        return first.len() >= MIN_VALUE && second.len() >= MIN_VALUE;
    }
    let is_prefix = (1..=4).contains(&first.len()) && first.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_prefix && is_random(second, parts.next().is_some())
}

/// Letters and digits in random order. Host names (`more_labels` follow), hashes, and words with dashes do
/// not have letters of both cases.
fn is_random(part: &str, more_labels: bool) -> bool {
    let has = |is: fn(&u8) -> bool| part.bytes().any(|byte| is(&byte));
    let (lower, upper) = (has(u8::is_ascii_lowercase), has(u8::is_ascii_uppercase));
    let is_name =
        more_labels || part.contains(['-', '_']) || part.bytes().all(|byte| byte.is_ascii_hexdigit());
    part.len() >= MIN_RANDOM && has(u8::is_ascii_digit) && (lower || upper) && (lower && upper || !is_name)
}

/// The credential after the name of a scheme.
fn credential(after: &str) -> Option<Range<usize>> {
    let rest = after.trim_start_matches(' ');
    let begin = after.len() - rest.len();
    let end = begin + rest.find(ends_value).unwrap_or(rest.len());
    let value = after.get(begin..end)?;
    (begin > 0 && value.contains(char::is_alphanumeric) && !is_plain(value)).then_some(begin..end)
}

/// The user name and password of a URL, after its scheme.
fn user_of_url(after: &str) -> Option<Range<usize>> {
    let begin = "://".len();
    let rest = after.strip_prefix("://")?;
    let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '\\');
    let authority = rest.get(..rest.find(ends).unwrap_or(rest.len()))?;
    let user = authority.get(..authority.rfind('@')?)?;
    (user != MASK && !user.is_empty()).then_some(begin..begin + user.len())
}

/// The value after the name of a key, as headers, JSON, YAML, Go's maps and command lines write it.
fn value(word: &str, after: &str) -> Option<Range<usize>> {
    let name = word.rsplit('.').next().unwrap_or(word).to_ascii_lowercase();
    if !SECRET.iter().any(|part| name.contains(part)) || ABOUT.iter().any(|end| name.ends_with(end)) {
        return None;
    }
    let unquoted = after.trim_start_matches(['\\', '"', '\'']);
    // JSON may have a space there; prose has none before a colon.
    let spaced = if unquoted.len() < after.len() { unquoted.trim_start_matches(' ') } else { unquoted };
    let (sign, rest) = match spaced.strip_prefix(':') {
        Some(rest) => (':', rest),
        None => ('=', unquoted.trim_start_matches(' ').strip_prefix('=')?),
    };
    if rest.starts_with([':', '=']) {
        // A Rust path, or a comparison.
        return None;
    }
    let opened = rest.trim_start_matches([' ', '\t', '(', '[', '<', '>']);
    let begin = after.len() - opened.len();
    let in_quotes = quoted(opened);
    let is_quoted = in_quotes.is_some();
    let Range { start, end } = in_quotes.unwrap_or(0..opened.find(ends_value).unwrap_or(opened.len()));
    let value = opened.get(start..end)?;
    let prose = sign == ':' && is_prose(&name, value, opened.get(end..)?);
    let is_value = is_quoted || !(is_scheme(value) || prose);
    (is_value && value.contains(char::is_alphanumeric)).then_some(begin + start..begin + end)
}

/// The quoted part of a text that begins with a quote. The quotes may be escaped, as in JSON inside JSON.
fn quoted(text: &str) -> Option<Range<usize>> {
    let bare = text.trim_start_matches('\\');
    let escapes = text.len() - bare.len();
    let quote = bare.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'))?;
    let mut before = 0;
    for (at, c) in bare.char_indices().skip(1) {
        if c == quote && before <= escapes {
            return Some(escapes + 1..escapes + at - before);
        }
        before = if c == '\\' { before + 1 } else { 0 };
    }
    Some(escapes + 1..text.len())
}

/// Whether the text after a name is prose about it, and not its value.
fn is_prose(name: &str, value: &str, next: &str) -> bool {
    if name.starts_with("x-") {
        // The name of a header.
        return false;
    }
    let is_text = |text: &str| text.starts_with(char::is_alphanumeric) || text.starts_with(MASK);
    let continues = next.strip_prefix(' ').is_some_and(is_text);
    let alone = SECRET.contains(&name.trim_end_matches('s'));
    let is_address = value.contains("://") && !value.contains('@');
    let is_status = value.len() == 3 && value.bytes().all(|byte| byte.is_ascii_digit());
    is_address
        || (is_plain(value) || is_status) && (alone || continues)
        || value.len() < MIN_VALUE && continues
}

/// Whether it is a word of prose, and not random.
fn is_plain(value: &str) -> bool {
    let word = value.trim_end_matches(['.', ':', '!', '?']);
    let is_upper = word.bytes().all(|byte| byte.is_ascii_uppercase());
    let mut bytes = word.bytes();
    let is_word = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    word.len() < MIN_RANDOM && !word.is_empty() && (is_upper || is_word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::service_token("token hvs.CAESIJx9Q7mKq3YcW0RkTf2LhVn8 is refused", "token *** is refused")]
    #[case::older_token("lookup/s.QKZxDcSkjCFvSPbrXY2TTVS1", "lookup/***")]
    #[case::token_of_a_namespace("s.QKZxDcSkjCFvSPbrXY2TTVS1.B3Rbd.", "***")]
    #[case::batch_token("<b.AAAAAQJ9Q7mKq3YcW0RkTf2LhVn8>", "<***>")]
    #[case::of_one_case("r.q8z3kd0x7m2n5v9b1c4f6g8h", "***")]
    #[case::jwt("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmVk, late", "got ***, late")]
    #[case::bearer("Authorization: Bearer abc-123/x+y==", "Authorization: Bearer ***")]
    #[case::basic("authorization: Basic dXNlcjpwYXNz", "authorization: Basic ***")]
    #[case::header("X-Acme-Token: root", "X-Acme-Token: ***")]
    #[case::headers("x-a-token: abc X-Other: 1", "x-a-token: *** X-Other: 1")]
    #[case::map_of_go("map[X-Acme-Token:[abcd] X-Other:[1]]", "map[X-Acme-Token:[***] X-Other:[1]]")]
    #[case::json(r#"{"client_token":"aB3","ttl":1}"#, r#"{"client_token":"***","ttl":1}"#)]
    #[case::json_in_json(
        r#"{"m":"{\"token\":\"a\\\"B3\",\"ttl\":1}"}"#,
        r#"{"m":"{\"token\":\"***\",\"ttl\":1}"}"#
    )]
    #[case::quoted("password = \"correct horse, staple\"; user = \"a\"", "password = \"***\"; user = \"a\"")]
    #[case::unquoted("password: hunter2", "password: ***")]
    #[case::spaced(r#"{"password" : "hunter2"}"#, r#"{"password" : "***"}"#)]
    #[case::api_key("x-api-key: abcd", "x-api-key: ***")]
    #[case::user_of_a_proxy("via http://ann:pw@proxy:3128/a@b", "via http://***@proxy:3128/a@b")]
    #[case::query("/login?secret_id=hunter&role=a", "/login?secret_id=***&role=a")]
    #[case::argument("--token=abc --role=a", "--token=*** --role=a")]
    #[case::cut_off(r#"{"token":"aB3"#, r#"{"token":"***"#)]
    #[case::beside_other_letters("jeton «token=été1»", "jeton «token=***")]
    fn text_that_looks_like_a_credential_is_masked(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(mask(text), shown);
    }

    #[rstest]
    #[case::cause("failed to renew the token: permission denied")]
    #[case::sentence(
        "failed to look up the token: Error making API request. Code: 403. Errors: * invalid token"
    )]
    #[case::code("failed to renew the token: 403 Forbidden")]
    #[case::tls("token: x509: certificate signed by unknown authority")]
    #[case::end_of_file("token: EOF")]
    #[case::lines(r"failed to read the secret:\n\nURL: GET https://kms.example.com:8200/v1/keys/kek")]
    #[case::compound("invalid secret_id: permission denied")]
    #[case::schemes("missing bearer token, basic auth failed")]
    #[case::object(r#"Secret: secret "acme-login" not found"#)]
    #[case::reference(r#"{"secret":{"name":"acme-login"},"secretName":"a"}"#)]
    #[case::status("failed to renew the token: 403")]
    #[case::how_often("secret_id_num_uses=0 token_policies=reader")]
    #[case::url_without_a_user("GET https://kms.example.com/v1?at=a@b refused")]
    #[case::nothing(r#"{"token":"","password":}"#)]
    #[case::file("open /etc/keyward/secret-acme-login_secret-id: no such file or directory")]
    #[case::where_it_is("-acme-secret-id-path=/etc/keyward/secret-id")]
    #[case::address("token: https://login.example.com/v1: refused")]
    #[case::host("dial tcp: lookup kms.internal.example.com on 10.0.0.10:53: no such host")]
    #[case::long_host("lookup a.very-long-name-of-a-host-1234567890.example.com")]
    #[case::long_label("lookup kms.abcdefghij1234567890xyz.example.com")]
    #[case::image("registry.example.com/org/acme-secrets:v1.2@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a")]
    #[case::uuid("role 6fa459ea-ee8a-3ca4-894e-db77e160355e")]
    #[case::hash("sha256:84ccaf6260f55c45850c3afe1e3670aaf4fd544a49ddf9738b1da97e256567df")]
    #[case::file_by_hash("log.84ccaf6260f55c45850c3afe1e3670aaf4fd544a")]
    #[case::class("io.ConfigurationPropertiesException, v2.KeyManagementService")]
    #[case::target(r#"{"target":"kms_plugin::token::renew","message":"renew the token","took":"1s"}"#)]
    #[case::comparison("token == nil")]
    fn text_about_a_credential_is_not_masked(#[case] text: &str) {
        assert_eq!(mask(text), text);
    }

    proptest! {
        #[test]
        fn masking_again_changes_nothing(text in "([a-z]{0,4}|token|secret_id|Bearer|[\\\\\"':=. \\[{,/é]){0,12}") {
            let once = mask(&text);
            prop_assert_eq!(mask(&once), once);
        }
    }
}
