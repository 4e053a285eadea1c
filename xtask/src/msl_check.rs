//! `cargo xtask msl-check`: no kernel relies on Metal's compiler to unroll a loop over registers.
//!
//! naga writes every kernel that a Mac may run as it does for wgpu; an example program of the kernels' crate leaves the
//! files. Stock clang optimises each behind a stand-in for Metal's standard library (`xtask/msl`). An array that is
//! then still in memory is one that a loop indexes and that no registers hold. Functions are inlined without a limit,
//! as compilers for GPUs do.
//!
//! It stands in for Apple's compiler and is not that compiler: a kernel that passes leaves no loop over registers to
//! any compiler. It says nothing of speed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};

use crate::step::{self, cargo};
use crate::target_dir;

/// Newest clang that is looked for by its versioned name.
const NEWEST: u32 = 22;
/// Oldest clang that knows what the stand-in uses.
const OLDEST: u32 = 13;
/// Vectors whose constructors naga's output calls, for each number of elements.
const VECTORS: [&str; 4] = ["float", "half", "int", "uint"];

/// A clang to ask.
#[derive(Debug)]
pub(crate) struct Clang {
    program: String,
}

/// A kernel as naga writes it for Metal.
#[derive(Debug)]
struct Kernel {
    name: String,
    file: PathBuf,
}

impl Clang {
    /// This machine's clang; on Debian, as root, it is installed.
    ///
    /// # Errors
    /// There is none and it cannot be installed; the message says what would.
    pub(crate) fn find() -> Result<Self> {
        if let Some(found) = Self::installed() {
            return Ok(found);
        }
        let mut apt = Command::new("apt-get");
        apt.args(["install", "-y", "-q", "--no-install-recommends", "clang"]).env("DEBIAN_FRONTEND", "noninteractive");
        let installed = apt.output().is_ok_and(|output| output.status.success());
        let found = if installed { Self::installed() } else { None };
        found.context("there is no clang here, and apt-get cannot install it: install clang")
    }

    fn installed() -> Option<Self> {
        let versioned = (OLDEST..=NEWEST).rev().map(|version| format!("clang++-{version}"));
        let answers =
            |program: &String| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
        std::iter::once("clang++".to_owned()).chain(versioned).find(answers).map(|program| Self { program })
    }

    /// The arrays that are in memory after optimisation, by their types in the file.
    fn arrays_in_memory(&self, root: &Path, file: &Path) -> Result<Vec<String>> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let source = file.with_extension("cpp");
        fs::write(&source, with_makers(&text))?;
        let mut command = Command::new(&self.program);
        command.args(["-target", "arm64-apple-macos13", "-std=c++17", "-x", "c++", "-O2", "-ffast-math"]);
        command.args(["-fno-vectorize", "-fno-slp-vectorize", "-mllvm", "-inline-threshold=1000000"]);
        command.args(["-Wno-everything", "-S", "-emit-llvm", "-o", "-", "-I"]).arg(root.join("xtask/msl"));
        let output = command.arg(&source).output().with_context(|| format!("start {}", self.program))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} does not compile: {errors}", file.display());
        Ok(arrays(&String::from_utf8_lossy(&output.stdout), &text))
    }
}

/// Checks every kernel for GPUs.
///
/// # Errors
/// A kernel keeps an array in memory or does not compile, or the check does not find the array that it must find.
pub(crate) fn run(root: &Path, clang: &Clang) -> Result<()> {
    let known = clang.arrays_in_memory(root, &copy_of_rolled(root)?)?;
    ensure!(
        !known.is_empty(),
        "{} keeps no array of xtask/msl/rolled.metal in memory, so it finds none",
        clang.program
    );
    let kernels = list(root)?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<String>> {
        let mut faults = Vec::new();
        while let Some(Kernel { name, file }) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
            let arrays = clang.arrays_in_memory(root, file).with_context(|| name.clone())?;
            if !arrays.is_empty() {
                faults.push(format!("{name}: {}", arrays.join(", ")));
            }
        }
        Ok(faults)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found: Vec<Result<Vec<String>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Err(anyhow::anyhow!("a thread of the check panicked"));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(panicked)).collect()
    });
    let mut faults = found.into_iter().collect::<Result<Vec<_>>>()?.concat();
    faults.sort();
    ensure!(
        faults.is_empty(),
        "{} of {} kernels keep arrays in memory; mark the loops that index them `// unrolled`:\n{}",
        faults.len(),
        kernels.len(),
        faults.join("\n")
    );
    println!("{} kernels for Metal, none keeps an array in memory", kernels.len());
    Ok(())
}

fn copy_of_rolled(root: &Path) -> Result<PathBuf> {
    let work = work_dir(root);
    fs::create_dir_all(&work)?;
    let copy = work.join("rolled.metal");
    fs::copy(root.join("xtask/msl/rolled.metal"), &copy).context("copy xtask/msl/rolled.metal")?;
    Ok(copy)
}

fn work_dir(root: &Path) -> PathBuf {
    root.join("target/msl-check")
}

/// Has the kernels' crate write its kernels.
fn list(root: &Path) -> Result<Vec<Kernel>> {
    // As `gpu-report` builds it.
    step::run(cargo(root).args(["build", "--release", "--workspace", "--example", "gpu_shaders"]))?;
    let program = target_dir(root).join("release/examples/gpu_shaders");
    let output = Command::new(program).arg("metal").arg(work_dir(root)).output().context("start gpu_shaders")?;
    ensure!(output.status.success(), "gpu_shaders: {}", String::from_utf8_lossy(&output.stderr));
    let kernel = |line: &str| {
        let (name, file) = line.split_once('\t').with_context(|| format!("gpu_shaders: unknown line {line:?}"))?;
        Ok(Kernel { name: name.to_owned(), file: file.into() })
    };
    let kernels = String::from_utf8(output.stdout)?.lines().map(kernel).collect::<Result<Vec<_>>>()?;
    ensure!(!kernels.is_empty(), "gpu_shaders listed no kernel");
    Ok(kernels)
}

/// The types of the arrays for which `ir` has memory on the stack, as the Metal source declares them.
fn arrays(ir: &str, metal: &str) -> Vec<String> {
    let stack = ir.lines().filter_map(|line| line.split_once(" = alloca ")?.1.split(',').next());
    stack.map(|ty| declared(ty, metal)).collect()
}

/// `%struct.NAME` as its first member, for a struct that holds an array; other types as they are.
fn declared(ty: &str, metal: &str) -> String {
    let name = ty.trim_start_matches("%\"").trim_start_matches('%').trim_start_matches("struct.").trim_end_matches('"');
    let member = metal.split_once(&format!("struct {name} {{")).and_then(|(_, rest)| rest.split(';').next());
    member.map_or(ty, str::trim).to_owned()
}

/// The source with constructors of vectors renamed: clang's vectors have none.
fn with_makers(metal: &str) -> String {
    let names: Vec<String> = VECTORS.iter().flat_map(|ty| (2..=4).map(move |size| format!("{ty}{size}("))).collect();
    let mut made = String::with_capacity(metal.len());
    let mut rest = metal;
    while let Some(first) = rest.chars().next() {
        let is_start = !made.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if is_start && names.iter().any(|name| rest.starts_with(name)) {
            made.push_str("make_");
        }
        let (head, tail) = rest.split_at(first.len_utf8());
        made.push_str(head);
        rest = tail;
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constructors_are_renamed_and_nothing_else() {
        let metal = "metal::float4 x = metal::float4(myfloat4(y), float2(as_type<half2>(z)));";
        let made = "metal::float4 x = metal::make_float4(myfloat4(y), make_float2(as_type<half2>(z)));";
        assert_eq!(with_makers(metal), made);
    }

    #[test]
    fn arrays_are_named_as_the_source_declares_them() {
        let metal = "struct type_7 {\n    metal::float4 inner[16];\n};\n";
        let ir = "define void @main_() {\n  %1 = alloca %struct.type_7, align 16\n  %2 = alloca [4 x float], align 4\n";
        assert_eq!(arrays(ir, metal), ["metal::float4 inner[16]", "[4 x float]"]);
        assert!(arrays("define void @main_() {\n  ret void\n}", metal).is_empty());
    }
}
