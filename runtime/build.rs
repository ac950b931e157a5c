//! Where `orlop-oci` begins: see src/sys/seal/early.rs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        println!("cargo::rustc-link-arg-bin=orlop-oci=-Wl,--entry=orlop_begin");
    }
}
