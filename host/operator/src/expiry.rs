//! When a referenced object expires: a certificate contains its own time; for other content, its issuer sets an
//! annotation. These are facts for core, which decides whether they are worth a warning (decision 0067).
//!
//! Certificates are public. Nothing else in a Secret is inspected: a private key beside a certificate is not even
//! decoded.

use std::collections::BTreeMap;

use jiff::Timestamp;
use keyward_core::SecretBytes;
use keyward_core::names::ANNOTATION_EXPIRES;
use keyward_core::platform::{Expiry, ExpirySource};

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";
/// How many certificates of one data key are read; a bundle for one KMS has fewer.
const MOST: usize = 500;
/// How many characters of a subject are kept: it is shown in the status and can have any content.
const LONGEST_SUBJECT: usize = 200;

/// All that expires in an object with these data keys and this annotation.
pub fn of(data: &BTreeMap<String, SecretBytes>, annotation: Option<&str>) -> Vec<Expiry> {
    let annotated = annotation.map(|text| Expiry {
        source: ExpirySource::Annotation,
        at: text.trim().parse().map_err(|_| {
            format!("annotation {ANNOTATION_EXPIRES} is not an RFC 3339 time such as 2027-01-31T00:00:00Z")
        }),
    });
    let certificates = data.iter().flat_map(|(key, value)| {
        certificates(value.expose()).take(MOST).map(|(subject, at)| Expiry {
            source: ExpirySource::Certificate { key: key.clone(), subject },
            at: Ok(at),
        })
    });
    annotated.into_iter().chain(certificates).collect()
}

/// The annotation with the time at which the object expires.
pub fn annotation(annotations: Option<&BTreeMap<String, String>>) -> Option<&str> {
    annotations?.get(ANNOTATION_EXPIRES).map(String::as_str)
}

/// Subject and end of each certificate. Other content is left out: the plugin that uses it reports it.
fn certificates(text: &[u8]) -> impl Iterator<Item = (String, Timestamp)> {
    let mut rest = text;
    let blocks = std::iter::from_fn(move || {
        let block = rest.get(find(rest, BEGIN)?..)?;
        let end = find(block, END)?.checked_add(END.len())?;
        rest = block.get(end..)?;
        block.get(..end)
    });
    blocks.filter_map(|block| {
        let (_, pem) = x509_parser::pem::parse_x509_pem(block).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let at = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
        let subject = certificate.subject().to_string();
        Some((subject.chars().take(LONGEST_SUBJECT).collect(), at))
    })
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A self-signed certificate that ends at this second of the epoch.
    fn certificate(name: &str, until: i64) -> String {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after =
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(until.cast_unsigned());
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn found(value: &str) -> Vec<(String, i64)> {
        let data = BTreeMap::from([("ca".to_owned(), SecretBytes::new(value.as_bytes().to_vec()))]);
        of(&data, None)
            .into_iter()
            .map(|expiry| match expiry.source {
                ExpirySource::Certificate { subject, .. } => (subject, expiry.at.unwrap().as_second()),
                ExpirySource::Annotation => panic!("no annotation"),
            })
            .collect()
    }

    #[test]
    fn each_certificate_of_a_bundle_is_found_beside_other_content() {
        let (first, second) = (certificate("a", 1_800_000_000), certificate("b", 1_900_000_000));
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let bundle = format!("# comment\n{first}\n{key}{second}-----BEGIN CERTIFICATE-----\nAAAA");
        assert_eq!(found(&bundle), [("CN=a".to_owned(), 1_800_000_000), ("CN=b".to_owned(), 1_900_000_000)]);
    }

    #[test]
    fn content_that_is_not_a_certificate_is_left_out() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for value in ["", "secret-id", broken, "-----END CERTIFICATE----------BEGIN CERTIFICATE-----"] {
            assert_eq!(found(value), [], "{value}");
        }
        let after = format!("{broken}{}", certificate("a", 1_800_000_000));
        assert_eq!(found(&after).len(), 1);
    }

    #[test]
    fn annotation_is_about_the_whole_object() {
        let expiry = |text| of(&BTreeMap::new(), Some(text)).remove(0);
        let known = expiry(" 2027-01-31T00:00:00Z ");
        assert_eq!(
            (known.source.key(), known.at.unwrap().to_string().as_str()),
            (None, "2027-01-31T00:00:00Z")
        );
        assert!(expiry("next year").at.unwrap_err().contains(ANNOTATION_EXPIRES));
    }
}
