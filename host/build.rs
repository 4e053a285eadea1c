//! Puts the standard guest into the program, if it has been built: `cargo xtask build` builds it first. Without it the
//! program asks for `--guest`.

use std::path::Path;

fn main() {
    let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components/standard.wasm");
    println!("cargo::rustc-check-cfg=cfg(standard_guest)");
    println!("cargo::rerun-if-changed={}", component.display());
    if component.is_file() {
        println!("cargo::rustc-cfg=standard_guest");
        println!("cargo::rustc-env=ASSAY_STANDARD_GUEST={}", component.display());
    }
}
