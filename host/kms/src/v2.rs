//! The wire types of KMS v2, with client and server, as generated from `proto/kms.proto` (package `v2`).
//!
//! `Debug` of messages that carry plaintext or ciphertext shows sizes only. Memory that contained plaintext is
//! wiped.
#![allow(missing_docs, unreachable_pub, clippy::pedantic)]

use std::fmt;

tonic::include_proto!("v2");

/// Shows the number of bytes and none of the bytes.
pub(crate) struct Sized<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Sized<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl fmt::Debug for EncryptRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptRequest")
            .field("plaintext", &Sized(&self.plaintext))
            .field("uid", &self.uid)
            .finish()
    }
}

impl fmt::Debug for EncryptResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptResponse")
            .field("ciphertext", &Sized(&self.ciphertext))
            .field("key_id", &self.key_id)
            .field("annotations", &self.annotations.keys())
            .finish()
    }
}

impl fmt::Debug for DecryptRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecryptRequest")
            .field("ciphertext", &Sized(&self.ciphertext))
            .field("uid", &self.uid)
            .field("key_id", &self.key_id)
            .field("annotations", &self.annotations.keys())
            .finish()
    }
}

impl fmt::Debug for DecryptResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecryptResponse").field("plaintext", &Sized(&self.plaintext)).finish()
    }
}
