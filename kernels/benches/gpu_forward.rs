//! How fast is the GPU engine on this device, kernel by kernel and as a whole?
//!
//! Baseline: the device's own ceiling, measured as multiply-adds on registers. Weights are random, with the shape of
//! MiniLM-L6; nothing is read from disk. Excluded: loading, and the first pass (drivers put work off until then). Each
//! kernel's time is the fastest of three measurements of 20 ms or more, by the device's clock; the whole pass is the
//! median of the runs shown with its spread, with the device idle before each. Then batches of one row each, in turns
//! with one and with three of them in flight. With `--host-words` the whole batch also with the word table in the
//! processor's memory, in turns with the table on the device.
//!
//! `cargo bench -p assay-kernels --bench gpu_forward -- [--f16] [--rows N] [--row-tokens N] [--runs N] [--tune]
//! [--host-words]`, or `--lengths N,N,…` in place of the rows of equal length.
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::time::Instant;

use assay_kernels::gpu::{AdapterSelection, GpuDevice, GpuEngine, GpuOptions, TuneCache, ceiling, tune};
use assay_kernels::{CheckedBatch, Engine, PackedBatch, Precision, Row, families};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let number = |name: &str, otherwise: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(otherwise, |at| arguments[at + 1].parse().unwrap())
    };
    let runs = number("--runs", 3);
    let lengths = match arguments.iter().position(|argument| argument == "--lengths") {
        Some(at) => arguments[at + 1].split(',').map(|length| length.parse().unwrap()).collect(),
        None => vec![number("--row-tokens", 100); number("--rows", 16)],
    };
    let tokens = lengths.iter().sum();
    let precision = if has("--f16") { Precision::F16 } else { Precision::F32 };
    let gpu = match GpuDevice::open(&AdapterSelection::Any) {
        Ok(gpu) => gpu,
        Err(error) => return println!("skipped: {error}"),
    };
    let architecture = families::stand_in_architecture();
    let ceiling = ceiling(&gpu).unwrap();
    println!("{}, {} storage; ceiling {:.1} GFLOP/s", gpu.description(), precision.name(), ceiling / 1e9);
    if has("--tune") {
        println!("{}", tune(&gpu, &architecture, precision, tokens, None).unwrap());
    }

    let options = GpuOptions {
        precision,
        max_batch_tokens: tokens,
        tune: if has("--tune") { TuneCache::Memory } else { TuneCache::Defaults },
        ..GpuOptions::default()
    };
    let mut engine = GpuEngine::load(&gpu, families::stand_in(architecture), &options).unwrap();
    let compiled = engine.compiled();
    println!("{} pipelines compiled in {:.1} s", compiled.pipelines, compiled.time.as_secs_f64());
    let mut batch = PackedBatch::default();
    for (row, &length) in lengths.iter().enumerate() {
        let ids: Vec<u32> = (0..length).map(|i| ((row * 7919 + i * 104_729) % 30_522) as u32).collect();
        batch.push(Row { ids: &ids, second_segment: length / 4 }).unwrap();
    }
    let mut one_row = PackedBatch::default();
    one_row.push(batch.row(0)).unwrap();
    let one_row = one_row.check(&engine.shape()).unwrap();
    let batch = batch.check(&engine.shape()).unwrap();
    let mut outputs = Vec::new();
    engine.run(&batch, &mut outputs).unwrap();
    assert!(outputs.iter().all(|score| score.is_finite()));

    println!("{:<36} {:>5} {:>10} {:>10} {:>8} {:>8}", "kernel", "runs", "ms", "GFLOP/s", "share", "GB/s");
    let mut times: Vec<(String, u32, f64, u64, u64)> = Vec::new();
    for kernel in engine.profile(&batch, 3).unwrap() {
        // Kernels after the last layer's keys and values work on first tokens: another size, another line.
        let name = format!("{} {:.2}", kernel.name, kernel.bytes as f64 / 1e6);
        let seconds = kernel.time.as_secs_f64();
        match times.iter_mut().find(|line| line.0 == name) {
            Some(line) => {
                line.1 += 1;
                line.2 += seconds;
                line.3 += kernel.flops;
                line.4 += kernel.bytes;
            }
            None => times.push((name, 1, seconds, kernel.flops, kernel.bytes)),
        }
    }
    for (name, count, seconds, flops, bytes) in times {
        let (rate, bandwidth) = (flops as f64 / seconds, bytes as f64 / seconds / 1e9);
        let (ms, share) = (seconds * 1e3, rate / ceiling);
        println!("{name:<36} {count:>5} {ms:>10.3} {:>10.2} {share:>8.3} {bandwidth:>8.2}", rate / 1e9);
    }

    let processor = processor_seconds();
    let mut seconds: Vec<f64> = (0..runs)
        .map(|_| {
            outputs.clear();
            let start = Instant::now();
            engine.run(&batch, &mut outputs).unwrap();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let flops = batch.iter().map(|row| engine.row_flops(row.ids.len())).sum::<u64>() as f64;
    println!(
        "whole pass, {} rows, {tokens} tokens: {:.1} ms (fastest {:.1}, slowest {:.1}), {:.2} useful GFLOP/s \
         ({:.3} of the ceiling), {:.0} useful tokens/s",
        lengths.len(),
        median * 1e3,
        seconds[0] * 1e3,
        seconds[seconds.len() - 1] * 1e3,
        flops / median / 1e9,
        flops / median / ceiling,
        tokens as f64 / median
    );
    if let Some((before, after)) = processor.zip(processor_seconds()) {
        let each = (after - before) / runs as f64;
        println!("processor time {:.0} ms a pass, {:.2} useful GFLOP/s a core", each * 1e3, flops / each / 1e9);
    }
    rows_in_flight(&mut engine, &one_row);
    if has("--host-words") {
        let options = GpuOptions { max_table_bytes: 0, ..options };
        let model = families::stand_in(families::stand_in_architecture());
        let other = GpuEngine::load(&gpu, model, &options).unwrap();
        word_table([engine, other], &batch, runs);
    }
}

/// What a batch takes with the word table on the device, and in the processor's memory: its submission, in which the
/// processor gathers the words' rows, and the whole pass.
fn word_table(mut engines: [GpuEngine; 2], batch: &CheckedBatch, runs: usize) {
    let mut scores = [Vec::new(), Vec::new()];
    let mut milliseconds = [const { [Vec::new(), Vec::new()] }; 2];
    for run in 0..=runs {
        for ((engine, scores), [submissions, passes]) in engines.iter_mut().zip(&mut scores).zip(&mut milliseconds) {
            scores.clear();
            let start = Instant::now();
            let ticket = engine.submit(batch).unwrap();
            let submitted = start.elapsed();
            engine.finish(ticket, scores).unwrap();
            // The first is a warm-up.
            if run > 0 {
                submissions.push(submitted.as_secs_f64() * 1e3);
                passes.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        assert_eq!(scores[0], scores[1]);
    }
    for (engine, times) in engines.iter().zip(milliseconds) {
        let [submission, pass] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            format!("{:.2} ms ({:.2} to {:.2})", times[times.len() / 2], times[0], times[times.len() - 1])
        });
        let memory = engine.memory();
        println!(
            "word table {:?}: a submission {submission}, the whole pass {pass}; {:.1} MiB of weights, {:.1} MiB of \
             buffers, {:.1} MiB on the host",
            engine.word_table(),
            memory.weights_bytes as f64 / f64::from(1 << 20),
            memory.io_bytes as f64 / f64::from(1 << 20),
            memory.host_bytes as f64 / f64::from(1 << 20),
        );
    }
}

/// Batches of one row: how many a second with one and with three in flight, and how long a submission takes while none,
/// one and two others are in flight.
fn rows_in_flight(engine: &mut GpuEngine, row: &CheckedBatch) {
    const BATCHES: usize = 12;
    const TURNS: usize = 3;
    let mut outputs = Vec::new();
    let mut seconds = [f64::MAX; 2];
    let mut submissions = vec![Vec::new(); engine.max_in_flight()];
    for _ in 0..TURNS {
        for (depth, fastest) in [1, engine.max_in_flight()].into_iter().zip(&mut seconds) {
            let mut in_flight = std::collections::VecDeque::new();
            let start = Instant::now();
            for _ in 0..BATCHES {
                if in_flight.len() == depth {
                    engine.finish(in_flight.pop_front().unwrap(), &mut outputs).unwrap();
                }
                let submit = Instant::now();
                in_flight.push_back(engine.submit(row).unwrap());
                submissions[in_flight.len() - 1].push(submit.elapsed().as_secs_f64());
            }
            for ticket in in_flight {
                engine.finish(ticket, &mut outputs).unwrap();
            }
            *fastest = fastest.min(start.elapsed().as_secs_f64());
        }
    }
    let [one, three] = seconds.map(|seconds| BATCHES as f64 / seconds);
    let medians = submissions.into_iter().map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        format!("{:.2}", seconds[seconds.len() / 2] * 1e3)
    });
    println!(
        "batches of one row of {} tokens: {one:.1}/s with one in flight, {three:.1}/s with {}; a submission takes {} ms \
         with none, one and two others in flight (medians)",
        row.tokens(),
        engine.max_in_flight(),
        medians.collect::<Vec<_>>().join(", ")
    );
}

/// Processor time of this process, where the system tells: what a software adapter takes on a machine that is busy.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    // Clock ticks in user mode; a hundred a second on every Linux there is.
    Some(fields.get(11)?.parse::<f64>().ok()? / 100.0)
}
