//! `assay devices`: lists adapters and the processor, the device that would be chosen, and what a running server has
//! loaded.

use std::path::Path;

use assay_kernels::cpu::Cores;
use assay_kernels::gpu::{self, AdapterDescription, AdapterKind};
use assay_kernels::{InstructionSet, cpu};
use serde::Serialize;

use super::error::CliError;
use super::loaded::loaded_models;
use super::orders::server_device;
use super::table;
use crate::device::{DeviceOptions, DeviceStatus, MemoryBudget};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Output of `--json`.
#[derive(Serialize)]
struct Devices {
    adapters: Vec<AdapterDescription>,
    processor: Processor,
    auto: Auto,
    /// The device of the server that runs on the data directory; null if none runs.
    server: Option<DeviceStatus>,
}

#[derive(Serialize)]
struct Processor {
    instruction_set: &'static str,
    threads: usize,
    precisions: Vec<&'static str>,
}

#[derive(Serialize)]
struct Auto {
    engine: &'static str,
    /// The adapter's number.
    adapter: Option<usize>,
    reason: String,
    /// Default memory budget for models, in bytes.
    memory_budget_bytes: u64,
    /// The reason for the budget, in words.
    memory_budget: String,
}

pub(super) fn run(args: &Args, data_dir: &Path) -> Result<(), CliError> {
    let decision = DeviceOptions::default().decide()?;
    let budget = MemoryBudget::of(None, decision.adapter.as_ref());
    let devices = Devices {
        adapters: gpu::adapters(),
        processor: Processor {
            instruction_set: InstructionSet::detect().name(),
            threads: Cores::detect().threads().get(),
            precisions: cpu::PRECISIONS.iter().map(|precision| precision.name()).collect(),
        },
        auto: Auto {
            engine: if decision.adapter.is_some() { "gpu" } else { "cpu" },
            adapter: decision.adapter.map(|adapter| adapter.index),
            reason: decision.reason,
            memory_budget_bytes: budget.bytes,
            memory_budget: budget.to_string(),
        },
        server: server_device(data_dir)?,
    };
    if args.json {
        let line = serde_json::to_string(&devices)
            .map_err(|error| CliError::failed(format!("the devices cannot be written as JSON: {error}")))?;
        println!("{line}");
    } else {
        print!("{}", text(&devices));
    }
    Ok(())
}

fn text(devices: &Devices) -> String {
    let Devices { adapters, processor, auto, server } = devices;
    let mut text = if adapters.is_empty() {
        "no adapters for --engine gpu: the system lists no Metal, Vulkan or DX12 adapter\n".to_owned()
    } else {
        let rows: Vec<Vec<String>> = adapters.iter().map(row).collect();
        table::columns(&["#", "adapter", "driver", "kind", "kernels", "supports"], &rows)
    };
    let Processor { instruction_set, threads, precisions } = processor;
    text += &format!("\nprocessor: {instruction_set}, {threads} threads; {}\n", precisions.join(", "));
    text += &format!("--engine auto takes {}: {}\n", auto.engine, auto.reason);
    text += &format!("--device-memory is {} unless it is given\n", auto.memory_budget);
    if let Some(server) = server {
        text += &format!("\nthe server's device\n{}", loaded_models(server, &|_| true));
    }
    text
}

fn row(adapter: &AdapterDescription) -> Vec<String> {
    let kernels = match (&adapter.unusable, adapter.cooperative.is_empty()) {
        (Some(_), _) => "none",
        // `assay tune` and the first load find out which is faster.
        (None, false) if adapter.kind != AdapterKind::Software => "tile or cooperative",
        (None, _) => adapter.variant,
    };
    vec![
        adapter.index.to_string(),
        table::snippet(&adapter.name),
        table::snippet(&format!("{}, {}", adapter.backend, adapter.driver)),
        adapter.kind.to_string(),
        kernels.to_owned(),
        supports(adapter),
    ]
}

fn supports(adapter: &AdapterDescription) -> String {
    if let Some(lacks) = &adapter.unusable {
        return format!("lacks {lacks}, which every kernel needs");
    }
    let mib = |bytes: u64| bytes / (1 << 20);
    let mut parts = vec!["f32 and f16 storage".to_owned()];
    if adapter.native_f16 {
        parts.push("native f16".to_owned());
    }
    if adapter.timestamps {
        parts.push("timestamps".to_owned());
    }
    if adapter.unified_memory {
        parts.push("unified memory".to_owned());
    }
    if let Some(subgroup) = adapter.subgroup {
        parts.push(format!("subgroups of {subgroup}"));
    }
    parts.extend(adapter.cooperative.iter().map(|shape| format!("cooperative {shape}")));
    parts.push(format!("buffers of {} MiB", mib(adapter.max_buffer_bytes)));
    parts.push(format!("workgroup memory of {} KiB", adapter.workgroup_bytes / 1024));
    parts.join(", ")
}
