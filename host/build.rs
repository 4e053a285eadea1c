//! Puts the standard guest into the program, if it has been built: `cargo xtask build` builds it first. Without it the
//! program asks for `--guest`.

use std::path::Path;

fn main() {
    // Where the package lies now: this program may have been compiled while it lay elsewhere.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let component = Path::new(&package).join("../target/guests/components/standard.wasm");
    println!("cargo::rustc-check-cfg=cfg(standard_guest)");
    println!("cargo::rerun-if-changed={}", component.display());
    if component.is_file() {
        println!("cargo::rustc-cfg=standard_guest");
        println!("cargo::rustc-env=ASSAY_STANDARD_GUEST={}", component.display());
    }
}
