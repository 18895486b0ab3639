//! Build-time facts.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
