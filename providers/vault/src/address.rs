//! Vault's address: its rules, and its canonical form.

use std::net::{Ipv4Addr, Ipv6Addr};

use keyward_guest::Findings;

/// The port that `https` means.
const DEFAULT_PORT: u16 = 443;

/// The parts of an address.
struct Address {
    scheme: String,
    host: String,
    port: Option<u16>,
    path: String,
    query: String,
}

/// Checks each rule separately, so that all violations are reported (openshift: vault-address).
pub(crate) fn check(text: &str, findings: &mut Findings<'_>) {
    if text.is_empty() {
        // The minimum length reports this.
        return;
    }
    match parse(text) {
        None => findings.violation("must be a valid URL"),
        Some(address) => {
            if address.scheme != "https" {
                findings.violation("must use the 'https' scheme");
            }
            if !matches!(address.path.as_str(), "" | "/") {
                findings.violation("must not contain a path");
            }
            if !address.query.is_empty() {
                findings.violation("must not have a query");
            }
        }
    }
    if text.contains('#') {
        findings.violation("must not have a fragment");
    }
    if text.contains('@') {
        findings.violation("must not have user info");
    }
}

/// The canonical form of an address that `check` accepts: scheme and host in lower case, IPv6 literals as in
/// RFC 5952, IPv4-mapped IPv6 addresses as IPv4, no default port, no slash at the end.
pub(crate) fn canonical(text: &str) -> String {
    parse(text).map_or_else(|| text.to_owned(), |address| address.text(&address.host))
}

/// The server that a canonical address names: one text for each server. A dot at the end of the host only
/// keeps a resolver from trying search domains, so it is removed.
pub(crate) fn server_of(text: &str) -> String {
    let bare = |address: Address| address.text(address.host.strip_suffix('.').unwrap_or(&address.host));
    parse(text).map_or_else(|| text.to_owned(), bare)
}

impl Address {
    fn text(&self, host: &str) -> String {
        let scheme = &self.scheme;
        match self.port.filter(|port| *port != DEFAULT_PORT) {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }
    }
}

/// Splits an absolute URL: scheme and host in canonical form, without fragment and user info.
fn parse(text: &str) -> Option<Address> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let text = text.split_once('#').map_or(text, |(before, _)| before);
    let (scheme, rest) = text.split_once(':')?;
    let rest = rest.strip_prefix("//")?;
    let letters = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !letters || !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
    let (host, port) = server(authority)?;
    Some(Address {
        scheme: scheme.to_ascii_lowercase(),
        host,
        port,
        path: path.to_owned(),
        query: query.to_owned(),
    })
}

/// `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn server(authority: &str) -> Option<(String, Option<u16>)> {
    if let Some(literal) = authority.strip_prefix('[') {
        let (address, port) = literal.split_once(']')?;
        return Some((ipv6(address)?, parse_port(port)?));
    }
    let (host, port) = authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon));
    // A reg-name of RFC 3986 without percent-encoding, which Go refuses. A name in another script has an
    // ASCII form.
    let valid = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&b));
    let named = valid && !host.is_empty() && host != "." && !host.contains("..") && !host.starts_with('.');
    (named && !is_unusual_ipv4(host)).then_some((host.to_ascii_lowercase(), parse_port(port)?))
}

/// Whether the host is an IPv4 address in a spelling other than four decimal numbers, which some resolvers
/// accept: `127.1`, `0x7f000001`, `192.000.002.007`, `192.0.2.7.`.
fn is_unusual_ipv4(host: &str) -> bool {
    let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    let is_hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let is_number = match is_hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    };
    is_number && host.parse::<Ipv4Addr>().is_err()
}

/// An IPv6 address in brackets as in RFC 5952; an IPv4-mapped address as IPv4, without brackets. Only a
/// link-local address can have a zone (`%25` and its name).
fn ipv6(text: &str) -> Option<String> {
    let (address, zone) =
        text.split_once("%25").map_or((text, None), |(address, zone)| (address, Some(zone)));
    let address: Ipv6Addr = address.parse().ok()?;
    match zone {
        None => Some(match address.to_ipv4_mapped() {
            Some(mapped) => mapped.to_string(),
            None => format!("[{address}]"),
        }),
        Some(zone) => {
            let is_name = zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
            let valid = !zone.is_empty() && is_name && address.is_unicast_link_local();
            valid.then(|| format!("[{address}%25{zone}]"))
        }
    }
}

/// Parses the text after the host: nothing, `:` or `:PORT`. The outer `None` means that it is not valid.
#[allow(clippy::option_option, reason = "valid or not, given or not: two questions")]
fn parse_port(text: &str) -> Option<Option<u16>> {
    match text {
        "" | ":" => Some(None),
        _ => {
            let digits =
                text.strip_prefix(':').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse().ok().filter(|port| *port != 0).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use keyward_guest::{Path, Report};

    use super::{canonical, check, server_of};

    fn violations(address: &str) -> Vec<String> {
        let mut report = Report::new();
        check(address, &mut report.at(&Path::Root));
        report.violations.into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn every_spelling_of_an_address_has_one_canonical_form() {
        for (written, address) in [
            ("https://vault.example.com", "https://vault.example.com"),
            ("https://vault.example.com/", "https://vault.example.com"),
            ("https://vault.example.com:443", "https://vault.example.com"),
            ("https://vault.example.com:", "https://vault.example.com"),
            ("HTTPS://Vault.Example.COM:8200/", "https://vault.example.com:8200"),
            ("https://vault.example.com:08200?", "https://vault.example.com:8200"),
            ("https://192.0.2.7:8200", "https://192.0.2.7:8200"),
            ("https://[2001:DB8:0:0:0:0:0:1]:443/", "https://[2001:db8::1]"),
            ("https://[2001:db8::0001]:8200", "https://[2001:db8::1]:8200"),
            ("https://[::ffff:192.0.2.7]", "https://192.0.2.7"),
            ("https://[::FFFF:c000:207]:8200", "https://192.0.2.7:8200"),
            ("https://vault.example.com.:8200", "https://vault.example.com.:8200"),
            ("https://[fe80::1%25eth0]:8200", "https://[fe80::1%25eth0]:8200"),
        ] {
            assert_eq!(violations(written), Vec::<String>::new(), "{written}");
            assert_eq!(canonical(written), address, "{written}");
            assert_eq!(canonical(address), address, "canonical form of {written} is a fixed point");
        }
    }

    #[test]
    fn a_dot_at_the_end_of_the_host_names_the_same_server() {
        for (written, server) in [
            ("https://vault.example.com.:8200", "https://vault.example.com:8200"),
            ("https://vault.example.com.", "https://vault.example.com"),
            ("https://vault.example.com", "https://vault.example.com"),
            ("https://[2001:db8::1]:8200", "https://[2001:db8::1]:8200"),
        ] {
            assert_eq!(violations(written), Vec::<String>::new(), "{written}");
            assert_eq!(server_of(&canonical(written)), server, "{written}");
        }
    }

    #[test]
    fn an_invalid_url_gives_exactly_one_violation() {
        for written in [
            "vault.example.com",
            "vault.example.com:8200",
            "https:vault.example.com",
            "https://",
            "https:///",
            "https://:8200",
            "https://vault.example.com:port",
            "https://vault.example.com:0",
            "https://vault.example.com:65536",
            "https://vault example.com",
            "https://vault.example.com\n",
            "https://2001:db8::1:8200",
            "https://[2001:db8::1",
            "https://[2001:db8::1]8200",
            "https://[vault]",
            "https://[fe80::1%25]",
            "https://[fe80::1%25e%74h0]",
            "https://[2001:db8::1%25eth0]",
            "https://[::ffff:192.0.2.7%25eth0]",
            "https://v%61ult.example.com",
            "https://vault%2eexample.com",
            "https://.",
            "https://vault..example.com",
            "https://.example.com",
            "https://127.1",
            "https://2130706433",
            "https://0x7f000001",
            "https://0X7F.1",
            "https://192.000.002.007",
            "https://0300.0.2.7",
            "https://192.0.2.7.",
            "https://192.0.2.256",
            "https://v\u{e4}ult.example.com",
            "1https://vault.example.com",
            "://vault.example.com",
        ] {
            assert_eq!(violations(written), ["must be a valid URL"], "{written:?}");
        }
    }

    #[test]
    fn each_rule_has_its_own_message() {
        for (written, messages) in [
            ("http://vault.example.com", vec!["must use the 'https' scheme"]),
            ("https://vault.example.com/v1", vec!["must not contain a path"]),
            ("https://vault.example.com//", vec!["must not contain a path"]),
            ("https://vault.example.com?key=value", vec!["must not have a query"]),
            ("https://vault.example.com#fragment", vec!["must not have a fragment"]),
            ("https://vault.example.com/#fragment", vec!["must not have a fragment"]),
            ("https://user:password@vault.example.com", vec!["must not have user info"]),
            ("https://@vault.example.com", vec!["must not have user info"]),
            (
                "http://user@vault.example.com/v1?a=b#c",
                vec![
                    "must use the 'https' scheme",
                    "must not contain a path",
                    "must not have a query",
                    "must not have a fragment",
                    "must not have user info",
                ],
            ),
        ] {
            assert_eq!(violations(written), messages, "{written}");
        }
    }
}
