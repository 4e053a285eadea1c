//! The findings in words: one page, to read and to paste into an issue.

use std::fmt::Write as _;

use assay_kernels::gpu::{AdapterKind, Ceilings};

use super::bundle::Bundle;
use super::gpu::{self, Gpu, Kept, Kernel};
use super::measured::{Checked, Pass};
use super::processor::Processor;
use super::verdict::{Verdict, rolled_loops};
use crate::cli::table;

/// Most kernels with wrong numbers that the page lists; the file has all.
const MAX_WRONG: usize = 20;

/// Kernels that take less of the time are in the file only.
const LEAST_SHARE_OF_TIME: f64 = 0.02;

/// A median of fewer runs is shown with their number.
const FEW_RUNS: usize = 3;

/// The page.
pub(super) fn text(bundle: &Bundle) -> String {
    let mut text = machine(bundle);
    if let Some(processor) = &bundle.processor {
        text += &of_processor(processor);
    }
    if let Some(gpu) = &bundle.gpu {
        text += &of_gpu(gpu, bundle.busy.is_busy());
    }
    text += "\nFindings\n";
    for finding in &bundle.findings {
        let _ = writeln!(text, "- {finding}");
    }
    text
}

/// What is worth a look, in a sentence each.
pub(super) fn findings(bundle: &Bundle) -> Vec<String> {
    let mut findings = Vec::new();
    findings.extend(bundle.busy.sentence());
    let wrong: Vec<String> = bundle.wrong().collect();
    match wrong.len() {
        0 if bundle.checked() == 0 => {
            findings.push("no kernel's numbers were checked: see what was left out".to_owned())
        }
        0 => findings.push(match bundle.checked_layers {
            Some(layers) => format!(
                "every kernel that was checked computes right numbers ({} checks; of whole models, on {layers} layers \
                 with random weights in this model's shape, since all of it would take too long)",
                bundle.checked()
            ),
            None => format!("every kernel that was checked computes right numbers ({} checks)", bundle.checked()),
        }),
        count => {
            findings.push(format!("{count} kernels compute WRONG numbers; tuning takes none of them"));
            findings.extend(wrong.into_iter().take(MAX_WRONG));
        }
    }
    findings.extend(bundle.failed.iter().map(|failed| format!("failed: {failed}")));
    if let Some(processor) = &bundle.processor {
        findings.extend(threads(bundle, processor));
        findings.extend(processor_speed(processor));
    }
    if let Some(gpu) = &bundle.gpu {
        findings.extend(gpu_speed(bundle, gpu));
        findings.extend(gpu.precisions.iter().map(kept));
    }
    findings.extend(bundle.skipped.iter().map(|skipped| format!("left out: {skipped}")));
    findings
}

fn machine(bundle: &Bundle) -> String {
    let Bundle { version, seconds, machine, model, .. } = bundle;
    let cores = machine.cores;
    let known = |count: Option<usize>| count.map_or("unknown".to_owned(), |count| count.to_string());
    let mut text = format!("assay {version} doctor, {seconds:.0} s\n");
    if let Some(busy) = bundle.busy.sentence() {
        let _ = writeln!(text, "{busy}");
    }
    text += "\nMachine\n";
    let gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    let _ = writeln!(text, "{} ({}), {gib:.0} GiB of memory, {}", machine.cpu, machine.arch, machine.os);
    let (physical, performance) = (known(cores.physical), known(cores.performance));
    let _ = writeln!(text, "processors: {}; physical cores: {physical}; fast ones: {performance}", cores.logical);
    if let Some(quota) = bundle.busy.quota {
        let _ = writeln!(text, "the control group's quota: the time of {:.2} processors", quota.processors);
    }
    let weights = if model.stand_in { ", random weights: no model is in the store" } else { "" };
    let (layers, hidden, tokens) = (model.layers, model.hidden, model.row_tokens);
    let _ = writeln!(text, "model: {layers} layers of {hidden}{weights}; rows of {tokens} tokens");
    for adapter in &bundle.adapters {
        let _ =
            writeln!(text, "adapter {}: {} ({})", adapter.index, table::snippet(&adapter.to_string()), adapter.kind);
    }
    let _ = writeln!(text, "--engine auto takes {}", bundle.auto);
    text
}

fn of_processor(processor: &Processor) -> String {
    let Processor { instruction_set, threads, peaks, reads, numbers, precisions } = processor;
    let mut text = format!("\nProcessor: {instruction_set}, {threads} threads\n");
    for peak in peaks {
        let _ = writeln!(text, "registers allow {:.0} {} by {}", peak.gops, peak.unit, peak.instruction);
    }
    let reads = reads.iter().map(|read| (read.bytes_per_thread as u64, read.bytes_per_s));
    let _ = writeln!(text, "reads, by each thread's bytes: {}", ladder(reads));
    text += &errors(numbers);
    let rows = precisions.iter().flat_map(|timed| timed.passes.iter().map(move |pass| row(timed.precision, pass)));
    text += &table::columns(&HEADER, &rows.collect::<Vec<_>>());
    if let Some(f32) = precisions.first() {
        let stages = f32.stages.iter().map(|stage| {
            let gflops = stage.gflops.map_or(String::new(), |gflops| format!("{gflops:.0}"));
            vec![
                stage.stage.to_owned(),
                format!("{:.3}", stage.share_of_time),
                gflops,
                sentence(stage.verdict.as_ref()),
            ]
        });
        text += "\n";
        text += &table::columns(&["stage in f32", "of time", "GFLOP/s", ""], &stages.collect::<Vec<_>>());
    }
    text
}

/// A line for each instruction set.
fn errors(numbers: &[Checked]) -> String {
    let mut text = String::new();
    let mut last = "";
    for checked in numbers {
        let (set, precision) = checked.what.rsplit_once(' ').unwrap_or(("", &checked.what));
        let start = if set == last { ", ".to_owned() } else { format!("\nlargest errors by {set}: ") };
        let wrong = if checked.right { "" } else { " WRONG" };
        let _ = write!(text, "{start}{precision} {:.0e}{wrong}", checked.error);
        last = set;
    }
    format!("{}\n", text.trim_start())
}

/// Columns of passes.
const HEADER: [&str; 7] = ["precision", "rows", "median ms", "fastest ms", "median rows/s", "fastest GFLOP/s", ""];

fn row(precision: &str, pass: &Pass) -> Vec<String> {
    let [fastest, median, _] = pass.seconds;
    vec![
        precision.to_owned(),
        pass.rows.to_string(),
        match pass.runs {
            1 => format!("{:.2} (1 run)", median * 1e3),
            runs if runs < FEW_RUNS => format!("{:.2} ({runs} runs)", median * 1e3),
            _ => format!("{:.2}", median * 1e3),
        },
        format!("{:.2}", fastest * 1e3),
        format!("{:.0}", pass.rows as f64 / median),
        format!("{:.0}", pass.gflops),
        sentence(pass.verdict.as_ref()),
    ]
}

fn sentence(verdict: Option<&Verdict>) -> String {
    verdict.map_or(String::new(), |verdict| verdict.sentence.clone())
}

fn ladder(reads: impl Iterator<Item = (u64, f64)>) -> String {
    let size =
        |bytes: u64| if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) };
    reads.map(|(bytes, rate)| format!("{} {:.0} GB/s", size(bytes), rate / 1e9)).collect::<Vec<_>>().join(", ")
}

fn of_gpu(gpu: &Gpu, busy: bool) -> String {
    let Gpu { adapter, ceilings, precisions, .. } = gpu;
    let mut text = format!("\nGPU: {}\n", table::snippet(&adapter.to_string()));
    let Ceilings { multiply_adds, rolled_multiply_adds, broadcast_bytes_per_s, dispatch, submit, round_trip, .. } =
        ceilings;
    let _ = writeln!(
        text,
        "registers allow {:.0} GFLOP/s; {}",
        multiply_adds / 1e9,
        match busy {
            true => "whether the compiler unrolls loops by itself cannot be told on a busy machine".to_owned(),
            false => rolled_loops(*multiply_adds, *rolled_multiply_adds),
        }
    );
    let _ = writeln!(text, "reads: {}", ladder(ceilings.reads.iter().map(|read| (read.bytes, read.bytes_per_s))));
    let us = |time: &std::time::Duration| time.as_secs_f64() * 1e6;
    let _ = writeln!(
        text,
        "broadcasts from workgroup memory {:.0} GB/s; a dispatch after another {:.1} µs; a submission {:.0} µs, {:.0} µs \
         until it is done",
        broadcast_bytes_per_s / 1e9,
        us(dispatch),
        us(submit),
        us(round_trip),
    );
    let _ = match ceilings.subgroup {
        Some(threads) => writeln!(text, "subgroups have {threads} threads, as a kernel counted them"),
        None => writeln!(text, "subgroups: the device cannot be asked"),
    };
    for timed in precisions {
        text += &of_precision(timed);
    }
    text
}

fn of_precision(timed: &gpu::Timed) -> String {
    let gpu::Timed { precision, candidates, pipelines, compile_s, numbers, passes, in_flight, .. } = timed;
    let right = candidates.iter().filter(|entry| entry.right).count();
    let mut text = format!("\nin {precision}: {right} of {} candidate kernels compute right numbers", candidates.len());
    if let Some(numbers) = numbers {
        let _ = write!(text, "; the whole model's largest error is {:.0e}", numbers.error);
    }
    let _ = writeln!(text, "; {pipelines} pipelines took {compile_s:.1} s to compile");
    text += &table::columns(&HEADER, &passes.iter().map(|pass| row(precision, pass)).collect::<Vec<_>>());
    if let Some(in_flight) = in_flight {
        let _ = writeln!(
            text,
            "batches of one row, each after the one before: {:.0}/s; with {} of them in flight {:.0}/s, and the longest \
             submit call took {:.2} ms",
            in_flight.one_per_s,
            in_flight.batches,
            in_flight.several_per_s,
            in_flight.longest_submit_s * 1e3
        );
    }
    text + &of_kernels(timed)
}

fn of_kernels(gpu::Timed { profiled_rows, kernels, .. }: &gpu::Timed) -> String {
    if kernels.is_empty() {
        return String::new();
    }
    let total: f64 = kernels.iter().map(|kernel| kernel.seconds).sum();
    let shown: Vec<&Kernel> = kernels.iter().filter(|kernel| kernel.seconds >= LEAST_SHARE_OF_TIME * total).collect();
    let predicted = shown.iter().any(|kernel| kernel.predicted_share.is_some());
    let mut header = vec!["part", "kernel", "runs", "ms of all", "GFLOP/s", "", "predicted"];
    header.truncate(if predicted { 7 } else { 6 });
    let rows = shown.into_iter().map(|kernel| {
        let share = kernel.predicted_share.map_or(String::new(), |share| format!("{share:.2}"));
        let mut row = vec![
            kernel.part.to_owned(),
            kernel.pipeline.clone(),
            kernel.dispatches.to_string(),
            format!("{:.3}", kernel.seconds * 1e3),
            format!("{:.0}", kernel.gflops),
            sentence(kernel.verdict.as_ref()),
            share,
        ];
        row.truncate(header.len());
        row
    });
    let rows: Vec<Vec<String>> = rows.collect();
    format!("each kernel alone, in one pass of {profiled_rows} rows:\n{}", table::columns(&header, &rows))
}

/// What became of the tuning choice.
fn kept(timed: &gpu::Timed) -> String {
    let what = match &timed.choice {
        Kept::Written => "this choice was written to the data directory, in place of an earlier one".to_owned(),
        Kept::Busy => {
            "the machine was busy, so this choice was not kept; an earlier one in the data directory stays".to_owned()
        }
        Kept::Short => {
            "there was no time for large batches, so no choice was kept; an earlier one in the data directory \
                        stays"
                .to_owned()
        }
        Kept::Failed(why) => format!("this choice could not be kept in the data directory: {why}"),
    };
    format!("tuning in {}: {what}", timed.precision)
}

fn threads(bundle: &Bundle, processor: &Processor) -> Option<String> {
    let cores = bundle.machine.cores;
    match cores.performance {
        None => Some("the system does not tell physical cores: each processor has a thread".to_owned()),
        Some(_) if processor.threads < cores.logical => Some(format!(
            "{} threads compute on {} processors: one for each fast physical core",
            processor.threads, cores.logical
        )),
        Some(_) => None,
    }
}

fn processor_speed(processor: &Processor) -> Vec<String> {
    let fastest = |index: usize| processor.precisions.get(index)?.passes.last();
    let mut findings = Vec::new();
    if let Some((largest, verdict)) = fastest(0).and_then(|pass| Some((pass, pass.verdict.as_ref()?))) {
        findings.push(format!("processor, {} rows in f32: {}", largest.rows, verdict.sentence));
    }
    for (timed, other) in processor.precisions.iter().skip(1).zip(1..) {
        if let (Some(f32), Some(pass)) = (fastest(0), fastest(other))
            && f32.rows == pass.rows
        {
            let times = f32.seconds[1] / pass.seconds[1];
            findings.push(format!(
                "processor: {} is {times:.2} times as fast as f32, at {} rows",
                timed.precision, pass.rows
            ));
        }
    }
    findings
}

fn gpu_speed(bundle: &Bundle, gpu: &Gpu) -> Vec<String> {
    let busy = bundle.busy.is_busy();
    let mut findings = Vec::new();
    for timed in &gpu.precisions {
        if let Some((pass, verdict)) = timed.passes.last().and_then(|pass| Some((pass, pass.verdict.as_ref()?))) {
            findings.push(format!("GPU, {} rows in {}: {}", pass.rows, timed.precision, verdict.sentence));
        }
        let total: f64 = timed.kernels.iter().map(|kernel| kernel.seconds).sum();
        let slow = timed.kernels.iter().filter(|kernel| kernel.seconds > 0.1 * total);
        for kernel in slow {
            if let Some(verdict) = kernel.verdict.as_ref().filter(|verdict| verdict.is_unexplained() && !busy) {
                findings.push(format!("GPU, {}: {}", kernel.pipeline, verdict.sentence));
            }
        }
    }
    let best =
        |passes: Option<&Vec<Pass>>| passes.and_then(|passes| passes.last()).map(|pass| (pass.rows, pass.seconds[1]));
    let on_gpu = best(gpu.precisions.first().map(|timed| &timed.passes));
    let processor = bundle.processor.as_ref().and_then(|processor| processor.precisions.first());
    if let (Some((rows, gpu_s)), Some((same, processor_s))) = (on_gpu, best(processor.map(|timed| &timed.passes)))
        && rows == same
    {
        let times = processor_s / gpu_s;
        let software = if gpu.adapter.kind == AdapterKind::Software { " (a software adapter)" } else { "" };
        findings.push(format!("the GPU{software} is {times:.2} times as fast as the processor, at {rows} rows in f32"));
    }
    findings
}
