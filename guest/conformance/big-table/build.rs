//! Has the linker leave room before the function table, which makes the table that much larger.

fn main() {
    println!("cargo::rustc-link-arg-cdylib=--table-base=25000");
}
