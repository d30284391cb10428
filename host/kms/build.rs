//! Compiles proto/kms.proto with a compiler written in Rust, so that the build needs no protoc.

use std::error::Error;

/// Messages that carry plaintext or ciphertext. src/v2.rs implements their `Debug`.
const CARRY_BYTES: [&str; 4] =
    [".v2.EncryptRequest", ".v2.EncryptResponse", ".v2.DecryptRequest", ".v2.DecryptResponse"];

/// Messages that carry plaintext. Their memory is wiped on drop.
const CARRY_PLAINTEXT: [&str; 2] = [".v2.EncryptRequest", ".v2.DecryptResponse"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["kms.proto"], ["proto"])?;
    let mut builder = tonic_prost_build::configure().btree_map(".").skip_debug(CARRY_BYTES);
    for message in CARRY_PLAINTEXT {
        builder = builder.type_attribute(message, "#[derive(::zeroize::Zeroize, ::zeroize::ZeroizeOnDrop)]");
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
