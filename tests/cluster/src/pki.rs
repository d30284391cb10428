//! Certificates of a test's servers and users, signed by a certificate authority of the test.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::hidden::Hidden;

/// A certificate authority. Its key exists only in memory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, both as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS #8.
    pub key: Hidden,
}

/// A key pair without a certificate, as PEM, to sign service account tokens.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// The public half.
    pub public: String,
    /// The private half, PKCS #8.
    pub private: Hidden,
}

impl Authority {
    /// A new authority. Its certificates are valid for centuries, because some tests change the clock.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("making an authority's key")?;
        let pem = params.self_signed(&key).context("signing an authority")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// The authority's certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server with these DNS names and IP addresses.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).context("names of a server")?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, "server")
    }

    /// A certificate for a Kubernetes user with these groups.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity> {
        self.sign(Self::user(user, groups), user)
    }

    /// The same with a certificate that expires after `valid`.
    pub fn client_for(&self, user: &str, groups: &[&str], valid: Duration) -> Result<Identity> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock")?;
        let mut params = Self::user(user, groups);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + valid;
        self.sign(params, user)
    }

    fn user(user: &str, groups: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::default();
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    fn sign(&self, mut params: CertificateParams, whose: &str) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().with_context(|| format!("making the key of {whose}"))?;
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("signing {whose}"))?;
        Ok(Identity { certificate: certificate.pem(), key: Hidden::new(key.serialize_pem()) })
    }
}

impl SigningKey {
    /// A new key.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate().context("making a signing key")?;
        Ok(Self { public: key.public_key_pem(), private: Hidden::new(key.serialize_pem()) })
    }
}
