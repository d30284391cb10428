//! What the shipped program is linked with; nothing is generated.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // The one target for which Rust links with its own lld. Functions of the same code become one, and the 24 bytes that
    // each address of a position-independent program costs become a bit (glibc from 2.36 on).
    if is("PROFILE", "release") && is("TARGET", "x86_64-unknown-linux-gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
