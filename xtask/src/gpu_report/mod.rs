//! `cargo xtask gpu-report`: what Apple's and AMD's compilers make of every kernel, and what an M1 could reach with it.
//!
//! No hardware is asked. From the compilers come registers, threads in flight, spills and the instruction mix; from
//! these, trip counts and the clock, the arithmetic-bound time of each kernel and of the whole forward pass. It is a
//! bound from above: memory latency comes on top, and Apple's own compiler differs from Mesa's. The table is kept in
//! `docs/kernels.md`; [`check`] compares with the figures in `kernels/wgsl/predicted.tsv`, which `assay doctor` holds
//! measurements to, and fails on a spill or a lost share.

mod forward;
mod listing;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::step::{self, cargo};
use crate::target_dir;
use crate::vulkan::{Driver, VulkanRoot};
use forward::{Batch, Step, forward_pass, trips};
use listing::{Kind, Listing};

/// Where the table is kept.
const DOCUMENT: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- gpu-report: begin -->";
const END: &str = "<!-- gpu-report: end -->";
/// The figures that [`check`] holds kernels to, one variant a line: name, threads in flight, multiply-add share.
const BASELINE: &str = "kernels/wgsl/predicted.tsv";
/// A share may fall by this much before it counts as lost: rounding in the file, and Mesa's point releases.
const SHARE_SLACK: f64 = 0.01;

/// What to do with the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Print them.
    Print,
    /// Write them to the document and the baseline.
    Write,
    /// Fail where they fall behind the baseline.
    Check,
}

/// What the compilers say about one variant.
#[derive(Debug, Clone)]
struct Figures {
    /// Override constants, as NAME=VALUE.
    constants: Vec<String>,
    /// Apple: 16-bit register halves used.
    registers: u64,
    /// Apple: threads of one core that fit in flight.
    threads: u64,
    spills: u64,
    listing: Listing,
    /// AMD: vector registers, waves in flight per SIMD, spilled registers.
    amd: [u64; 3],
}

/// What the program `gpu_shaders` lists.
#[derive(Debug, Default)]
struct Listed {
    batch: Batch,
    pipelines: Vec<Variant>,
    /// Dispatches of the forward pass, with every choice of variants.
    steps: Vec<Step>,
}

/// A shader to ask about.
#[derive(Debug)]
struct Variant {
    name: String,
    file: PathBuf,
    /// Override constants, as NAME=VALUE.
    constants: Vec<String>,
}

/// Compiles every variant and does what `mode` says.
///
/// # Errors
/// A kernel does not compile, or (checking) a figure fell behind.
pub(crate) fn run(root: &Path, vulkan: &VulkanRoot, mode: Mode) -> Result<()> {
    // An example of the kernels' crate, so that this program needs neither the kernels nor a graphics library. The
    // selection is the tests' own: with any other, cargo would build what they share a second time.
    step::run(cargo(root).args(["build", "--release", "--workspace", "--example", "gpu_shaders"]))?;
    let program = target_dir(root).join("release/examples/gpu_shaders");
    let work = root.join("target/gpu-report");
    fs::create_dir_all(&work)?;
    let mut listed = list(&program, &work)?;
    let mut figures = BTreeMap::new();
    for variant in std::mem::take(&mut listed.pipelines) {
        let found = ask(vulkan, &program, &variant).with_context(|| format!("compile {}", variant.name))?;
        figures.insert(variant.name, found);
    }
    match mode {
        Mode::Print => println!("{}", table(&figures, &listed)?),
        Mode::Write => write(root, &figures, &listed)?,
        Mode::Check => check(root, &figures)?,
    }
    Ok(())
}

fn list(program: &Path, work: &Path) -> Result<Listed> {
    let output = Command::new(program).arg("list").arg(work).output().context("start gpu_shaders")?;
    ensure!(output.status.success(), "gpu_shaders: {}", String::from_utf8_lossy(&output.stderr));
    let mut listed = Listed::default();
    for line in String::from_utf8(output.stdout)?.lines() {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["batch", rows, row_tokens] => {
                listed.batch = Batch { rows: rows.parse()?, row_tokens: row_tokens.parse()? };
            }
            ["pipeline", name, file, constants] => {
                let constants = constants.split_whitespace().map(str::to_owned).collect();
                listed.pipelines.push(Variant { name: name.to_owned(), file: file.into(), constants });
            }
            ["step", pass, part, pipeline, threads, flops] => {
                let [pass, part, pipeline] = [pass, part, pipeline].map(str::to_owned);
                listed.steps.push(Step { pass, part, pipeline, threads: threads.parse()?, flops: flops.parse()? });
            }
            _ => bail!("gpu_shaders: unknown line {line:?}"),
        }
    }
    Ok(listed)
}

fn ask(vulkan: &VulkanRoot, program: &Path, variant: &Variant) -> Result<Figures> {
    let compile = |driver, debug: &[(&str, &str)]| -> Result<(String, String)> {
        let mut command = Command::new(vulkan.runner(driver));
        command.arg(program).arg("compile").arg(&variant.file).args(&variant.constants);
        let output = command.envs(debug.iter().copied()).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "{driver:?}: {}", text(&output.stderr));
        Ok((text(&output.stdout), text(&output.stderr)))
    };
    let (apple, apple_listing) = compile(Driver::Apple, &[("AGX_MESA_DEBUG", "shaders")])?;
    // The listing goes to whichever stream the driver likes.
    let listing = Listing::parse(&format!("{apple_listing}\n{apple}"));
    let (amd, _) = compile(Driver::Amd, &[])?;
    ensure!(listing.straight.instructions() > 0, "the Apple compiler printed no listing");
    Ok(Figures {
        constants: variant.constants.clone(),
        registers: statistic(&apple, "GPRs")?,
        threads: statistic(&apple, "Threads")?,
        spills: statistic(&apple, "Spills")? + statistic(&apple, "Scratch")?,
        listing,
        amd: [
            statistic(&amd, "VGPRs")?,
            statistic(&amd, "Subgroups per SIMD")?,
            statistic(&amd, "Spilled VGPRs")? + statistic(&amd, "Spilled SGPRs")?,
        ],
    })
}

fn statistic(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("no statistic {name} in {text:?}"))
}

fn table(figures: &BTreeMap<String, Figures>, listed: &Listed) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "| kernel | Apple registers | threads in flight | spills | instructions | hot loop | multiply-add share | \
         AMD VGPRs | waves | spills |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )?;
    for (name, f) in figures {
        let hot = f.listing.hot();
        let all = f.listing.straight.instructions() + f.listing.loops.iter().map(|l| l.own.instructions()).sum::<u64>();
        let share = match hot.count(Kind::MultiplyAdd) {
            0 => "–".to_owned(),
            _ => format!("{:.3}", hot.multiply_add_share()),
        };
        let [vgprs, waves, amd_spills] = f.amd;
        writeln!(
            text,
            "| {name} | {} | {} | {} | {all} | {} | {share} | {vgprs} | {waves} | {amd_spills} |",
            f.registers,
            f.threads,
            f.spills,
            hot.instructions(),
        )?;
    }
    let slots = |name: &str| {
        let Figures { constants, listing, .. } = figures.get(name)?;
        Some(listing.slots(&trips(name, constants, listing, listed.batch.row_tokens)))
    };
    for storage in ["f16", "f32"] {
        writeln!(text, "\n{}", forward_pass(storage, listed.batch, &listed.steps, &slots)?)?;
    }
    Ok(text)
}

fn write(root: &Path, figures: &BTreeMap<String, Figures>, listed: &Listed) -> Result<()> {
    let path = root.join(DOCUMENT);
    let document = fs::read_to_string(&path).with_context(|| format!("read {DOCUMENT}"))?;
    let (before, rest) = document.split_once(BEGIN).with_context(|| format!("{DOCUMENT} has no {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{DOCUMENT} has no {END}"))?;
    fs::write(&path, format!("{before}{BEGIN}\n{}{END}{after}", table(figures, listed)?))?;
    let mut baseline = String::new();
    for (name, f) in figures {
        writeln!(baseline, "{name}\t{}\t{:.4}", f.threads, f.listing.hot().multiply_add_share())?;
    }
    fs::write(root.join(BASELINE), baseline).context("write the baseline")
}

/// Fails where a kernel spills, or has fewer threads in flight or a smaller share than the baseline has.
fn check(root: &Path, figures: &BTreeMap<String, Figures>) -> Result<()> {
    let baseline = fs::read_to_string(root.join(BASELINE)).with_context(|| format!("read {BASELINE}"))?;
    let mut faults = Vec::new();
    for (name, f) in figures {
        if f.spills + f.amd[2] > 0 {
            faults.push(format!("{name} spills"));
        }
    }
    for line in baseline.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, threads, share] = fields[..] else { bail!("{BASELINE}: not three fields: {line:?}") };
        let (threads, share): (u64, f64) = (threads.parse()?, share.parse()?);
        let Some(f) = figures.get(name) else {
            faults.push(format!("{name} is gone: write the baseline anew"));
            continue;
        };
        let now = f.listing.hot().multiply_add_share();
        if now < share - SHARE_SLACK {
            faults.push(format!("{name}: the multiply-add share fell from {share} to {now:.4}"));
        }
        if f.threads < threads {
            faults.push(format!("{name}: threads in flight fell from {threads} to {}", f.threads));
        }
    }
    ensure!(faults.is_empty(), "kernels fell behind {BASELINE}:\n{}", faults.join("\n"));
    println!("{} kernel variants hold their figures, none spills", figures.len());
    Ok(())
}
