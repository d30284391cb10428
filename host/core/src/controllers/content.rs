//! Checks a referenced value before any plugin is started with it.
//!
//! A provider module states by facts what the data keys contain ([`ONE_LINE`], [`CERTIFICATES`]); the module
//! itself never sees a value. A KMS refuses a login whose credential ends with a line break, and some KMSs
//! count refused logins and then lock the account. No byte of a value goes into a message
//! (invariant: secret-bytes-stay-in-secrets).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Fact of a module: data keys, separated by spaces, whose values are one line of text: an id, a token, a
/// password.
pub const ONE_LINE: &str = "one-line-data";
/// Fact of a module: data keys, separated by spaces, whose values contain at least one PEM certificate.
pub const CERTIFICATES: &str = "certificate-data";

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// The tag of an ASN.1 SEQUENCE, which every certificate is.
const SEQUENCE: u8 = 0x30;

/// What is wrong with the value of this data key, and what to do; `None` if nothing is.
pub(super) fn mistake(facts: &BTreeMap<String, String>, key: &str, value: &[u8]) -> Option<String> {
    let is = |fact: &str| facts.get(fact).is_some_and(|keys| keys.split(' ').any(|named| named == key));
    if is(ONE_LINE) {
        return one_line(value).map(|what| {
            format!("{what}; store the value again without it, for example with printf %s instead of echo")
        });
    }
    (is(CERTIFICATES) && !has_certificate(value)).then(|| {
        format!("contains no PEM certificate; store the CA's certificate, which begins with {BEGIN}, under this key")
    })
}

fn one_line(value: &[u8]) -> Option<&'static str> {
    let ends_with =
        |end: &[u8]| value.strip_suffix(end).is_some_and(|rest| !rest.iter().any(u8::is_ascii_control));
    if ends_with(b"\r\n") {
        Some("ends with a line break (CRLF)")
    } else if ends_with(b"\n") {
        Some("ends with a line break")
    } else if value.contains(&0) {
        Some("contains a NUL byte")
    } else if value.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        Some("contains a line break")
    } else if value.iter().any(u8::is_ascii_control) {
        Some("contains a control character")
    } else if value.first() == Some(&b' ') || value.last() == Some(&b' ') {
        Some("begins or ends with a space")
    } else if std::str::from_utf8(value).is_err() {
        Some("contains bytes that are not text")
    } else {
        None
    }
}

fn has_certificate(value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value);
    text.split(BEGIN).skip(1).any(|after| after.split_once(END).is_some_and(|(body, _)| is_sequence(body)))
}

/// Whether base64 text is one whole ASN.1 SEQUENCE. The plugin judges its content.
fn is_sequence(body: &str) -> bool {
    let base64: String = body.split_ascii_whitespace().collect();
    let Ok(der) = BASE64_STANDARD.decode(base64) else { return false };
    let [SEQUENCE, first, rest @ ..] = der.as_slice() else { return false };
    let Some(count) = first.checked_sub(0x80) else { return usize::from(*first) == rest.len() };
    let Some((length, content)) = rest.split_at_checked(count.into()) else { return false };
    let length =
        length.iter().try_fold(0_usize, |sum, byte| Some(sum.checked_mul(256)? | usize::from(*byte)));
    length == Some(content.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> BTreeMap<String, String> {
        [(ONE_LINE, "role-id secret-id"), (CERTIFICATES, "ca-bundle.crt")]
            .map(|(name, keys)| (name.to_owned(), keys.to_owned()))
            .into()
    }

    #[test]
    fn a_credential_is_one_line_of_text() {
        for (value, wrong) in [
            (&b"hunter2"[..], None),
            (b"hunter 2", None),
            ("h\u{fc}nter2".as_bytes(), None),
            (b"hunter2\n", Some("ends with a line break;")),
            (b"hunter2\r\n", Some("ends with a line break (CRLF);")),
            (b"\nhunter2", Some("contains a line break;")),
            (b"hun\r\nter2\n", Some("contains a line break;")),
            (b"hunter2\r", Some("contains a line break;")),
            (b"hunter2\0", Some("contains a NUL byte;")),
            (b"hun\tter2", Some("contains a control character;")),
            (b"hunter2\x7f", Some("contains a control character;")),
            (b" hunter2", Some("begins or ends with a space;")),
            (b"hunter2 ", Some("begins or ends with a space;")),
            (b"hunter\xff", Some("contains bytes that are not text;")),
        ] {
            let found = mistake(&facts(), "secret-id", value);
            assert_eq!(found.is_some(), wrong.is_some(), "{value:?}: {found:?}");
            let found = found.unwrap_or_default();
            assert!(found.starts_with(wrong.unwrap_or_default()) && !found.contains("hunter"), "{found}");
        }
        assert_eq!(mistake(&facts(), "other", b"a\nb"), None, "a data key that no fact names");
    }

    #[test]
    fn a_ca_bundle_contains_a_certificate() {
        let pem =
            |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        // SEQUENCE of length 2, and the same with its length in the long form.
        let (short, long) = ("MAIFAA==", "MIECBQA=");
        for (bundle, good) in [
            (pem("CERTIFICATE", short), true),
            (pem("CERTIFICATE", long), true),
            (format!("# the CA of a KMS\r\n{}", pem("CERTIFICATE", short).replace('\n', "\r\n")), true),
            (pem("PRIVATE KEY", short) + &pem("CERTIFICATE", short), true),
            (pem("CERTIFICATE", "") + &pem("CERTIFICATE", short), true),
            ("\n".to_owned(), false),
            ("not a bundle".to_owned(), false),
            (pem("PRIVATE KEY", short), false),
            (pem("CERTIFICATE", ""), false),
            (pem("CERTIFICATE", "MAIFAA"), false),
            (pem("CERTIFICATE", "MAMFAA=="), false),
            (pem("CERTIFICATE", "AgIFAA=="), false),
            (format!("{BEGIN}\n{short}\n"), false),
        ] {
            let found = mistake(&facts(), "ca-bundle.crt", bundle.as_bytes());
            assert_eq!(found.is_none(), good, "{bundle}: {found:?}");
        }
    }
}
