//! Every part of an architecture that the CPU engine computes, against the reference, in rows of lengths at which
//! kernels change what they do; and every part that it refuses.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use assay_kernels::architecture::{
    Activation, Dense, Head, Mask, MlpKind, Norm, NormKind, NormPlacement, Pooling, Positions, RelativePositions,
    Rotary,
};
use assay_kernels::{Architecture, CpuEngine, PackedBatch, Precision, Task, TokenTypes, reference};
use common::{Shape, architecture, cpu_engine, random_model, random_rows, run, uniform_rows, worst};

/// Largest differences from float64, by precision. Outputs span about 4.
const TOLERANCES: [(Precision, f64); 3] = [(Precision::F32, 1e-4), (Precision::Int8, 0.3), (Precision::Int16, 0.03)];

/// A window's radius: rows of 8 and 9 tokens are the last that it covers from every token, and the first that it does
/// not.
const RADIUS: usize = 8;

fn base(heads: usize, head_dim: usize) -> Architecture {
    architecture(Shape { heads, head_dim, intermediate: 100, layers: 3, outputs: 2, task: Task::CrossEncoder })
}

fn classifier(dense: Option<Dense>) -> Head {
    Head::Classifier { dense, labels: 2, bias: true }
}

/// ModernBERT's parts: rotary positions, windows in two of three layers, norms before, a gate, no biases.
fn modern(heads: usize, head_dim: usize, max_tokens: usize) -> Architecture {
    let mut modern = base(heads, head_dim);
    let norm = Norm { kind: NormKind::Layer, eps: 1e-5, bias: false };
    modern.max_tokens = max_tokens;
    modern.embeddings.positions = Positions::None;
    modern.embeddings.token_types = TokenTypes::None;
    modern.embeddings.norm = Some(norm);
    modern.block.norm = norm;
    modern.block.norm_placement = NormPlacement::Before;
    modern.block.attention.query_key_value_bias = false;
    modern.block.attention.output_bias = false;
    modern.block.mlp.kind = MlpKind::Gated;
    modern.block.mlp.intermediate_bias = false;
    modern.block.mlp.output_bias = false;
    modern.final_norm = Some(norm);
    for (index, layer) in modern.layers.iter_mut().enumerate() {
        let is_global = index == 0;
        layer.rotary = Some(Rotary::of_theta(if is_global { 160_000.0 } else { 10_000.0 }));
        layer.mask = if is_global { Mask::All } else { Mask::Window { radius: RADIUS } };
        layer.attention_norm = index > 0;
    }
    modern.head = classifier(Some(Dense { bias: false, activation: Some(Activation::Gelu), norm: Some(norm) }));
    modern
}

/// Architectures that together have every part which the engine computes.
fn computed() -> Vec<(&'static str, Architecture)> {
    let modern = modern(2, 16, 600);
    let mut mean = modern.clone();
    mean.pooling = Pooling::Mean;
    let mut biased = modern.clone();
    biased.block.norm.bias = true;
    biased.block.mlp.intermediate_bias = true;
    biased.block.mlp.output_bias = true;
    biased.block.mlp.activation = Activation::Silu;
    biased.block.attention.query_key_value_bias = true;
    biased.block.attention.output_bias = true;
    // The last layer's keys are windowed for its first token, or all; wide heads; more inputs than a block has.
    let mut wide = self::modern(5, 80, 600);
    wide.block.mlp.intermediate_size = 400;
    wide.layers.reverse();
    let mut gte = base(3, 20);
    gte.embeddings.positions = Positions::None;
    gte.block.mlp.kind = MlpKind::Gated;
    gte.layers.iter_mut().for_each(|layer| {
        layer.rotary = Some(Rotary { theta: 160_000.0, frequency_divisor: 1.07 });
    });
    // Distances beyond 16 share rows; rows of 600 tokens have distances beyond the last row.
    let mut deberta = base(3, 20);
    deberta.embeddings.positions = Positions::None;
    deberta.embeddings.token_types = TokenTypes::None;
    let norm = Some(deberta.block.norm);
    deberta.block.attention.relative = Some(RelativePositions { span: 32, max_distance: Some(512), norm });
    let mut every_distance = deberta.clone();
    every_distance.block.attention.relative = Some(RelativePositions { span: 500, max_distance: None, norm: None });
    every_distance.pooling = Pooling::Mean;
    let mut causal = base(2, 16);
    causal.layers.iter_mut().for_each(|layer| layer.mask = Mask::Causal);
    causal.block.mlp.activation = Activation::GeluTanh;
    causal.head = classifier(None);
    causal.pooling = Pooling::Mean;
    let mut embedder = base(2, 16);
    embedder.head = Head::Embedding;
    embedder.block.mlp.activation = Activation::Relu;
    embedder.final_norm = Some(embedder.block.norm);
    vec![
        ("modernbert", modern),
        ("modernbert by the mean", mean),
        ("modernbert with biases", biased),
        ("wide modernbert", wide),
        ("gte", gte),
        ("deberta", deberta),
        ("a row of the table for every distance", every_distance),
        ("causal, by the mean", causal),
        ("an embedder of first tokens", embedder),
    ]
}

fn rows() -> PackedBatch {
    let window = RADIUS;
    random_rows(&[1, 2, window, window + 1, 2 * window + 1, 2 * window + 2, 64, 65, 130, 511, 512, 513], 3)
}

#[test]
fn every_part_that_is_computed_matches_the_reference() {
    for (what, architecture) in computed() {
        let model = random_model(architecture, 7);
        let expected = reference::forward(&model, &rows());
        for (precision, tolerance) in TOLERANCES {
            for threads in [1, 3] {
                let outputs = run(&mut cpu_engine(model.clone(), threads, precision), &rows());
                let (error, at) = worst(&outputs, &expected);
                println!("{what} in {}, {threads} threads: largest error {error:.1e}", precision.name());
                assert!(
                    error <= tolerance,
                    "{what} {} with {threads} threads, output {at}: {} for {}",
                    precision.name(),
                    outputs[at],
                    expected[at]
                );
            }
        }
    }
}

#[test]
fn a_row_alone_has_the_bits_of_the_same_row_in_company() {
    for (what, architecture) in computed() {
        let model = random_model(architecture, 7);
        for precision in [Precision::F32, Precision::Int8] {
            let together = run(&mut cpu_engine(model.clone(), 3, precision), &rows());
            let mut alone = cpu_engine(model.clone(), 2, precision);
            let outputs = model.architecture.outputs();
            for (index, row) in rows().iter().enumerate() {
                let mut batch = PackedBatch::default();
                batch.push(row).unwrap();
                let expected = &together[index * outputs..][..outputs];
                assert_eq!(run(&mut alone, &batch), expected, "{what}, {} tokens", row.ids.len());
            }
        }
    }
}

#[test]
fn rows_of_8192_tokens_agree_with_the_reference() {
    let mut architecture = modern(1, 16, 8_192);
    architecture.block.mlp.intermediate_size = 20;
    for layer in &mut architecture.layers[1..] {
        layer.mask = Mask::Window { radius: 64 };
    }
    let model = random_model(architecture, 11);
    let rows = random_rows(&[8_192, 64, 8_001], 5);
    let expected = reference::forward(&model, &rows);
    let outputs = run(&mut cpu_engine(model, 2, Precision::F32), &rows);
    let (error, at) = worst(&outputs, &expected);
    println!("8192 tokens: largest error {error:.1e}");
    assert!(error <= 1e-4, "output {at}: {} for {}", outputs[at], expected[at]);
}

#[test]
fn rows_of_one_token_over_and_over_agree_with_the_reference() {
    for (what, mut architecture) in computed() {
        let lengths: &[usize] = match architecture.embeddings.positions {
            // Nothing tells one token from another.
            Positions::None => &[512, 513, 1_500],
            Positions::Learned { .. } => &[512],
        };
        architecture.max_tokens = architecture.max_tokens.max(lengths[lengths.len() - 1]);
        let (model, rows) = (random_model(architecture, 7), uniform_rows(lengths));
        let expected = reference::forward(&model, &rows);
        let (error, at) = worst(&run(&mut cpu_engine(model, 2, Precision::F32), &rows), &expected);
        println!("{what}: largest error {error:.1e}, output {at}");
        assert!(error <= common::UNIFORM_TOLERANCE, "{what}, output {at}: {error:.1e}");
    }
}

#[test]
fn memory_is_known_before_the_weights_are_read() {
    for (what, architecture) in computed() {
        let device = common::processor(1);
        for precision in [Precision::F32, Precision::Int8] {
            let options = assay_kernels::CpuOptions { precision, ..Default::default() };
            let needed = CpuEngine::memory_needed(&device, &architecture, &options).unwrap();
            let engine = cpu_engine(random_model(architecture.clone(), 7), 1, precision);
            let taken = assay_kernels::Engine::memory(&engine);
            assert_eq!(needed.weights_bytes, taken.weights_bytes, "{what} {}", precision.name());
        }
    }
}

#[test]
fn every_part_that_is_not_computed_is_refused_by_name() {
    type Change = fn(&mut Architecture);
    let cases: [(Change, &str); 3] = [
        (|a| a.block.norm.kind = NormKind::Rms, "RMSNorm"),
        (|a| a.block.attention.kv_heads = 1, "key and value heads"),
        (|a| a.pooling = Pooling::Last, "pooling of the last token"),
    ];
    CpuEngine::supports(&base(2, 16)).unwrap();
    for (change, expected) in cases {
        let mut architecture = base(2, 16);
        change(&mut architecture);
        let message = CpuEngine::supports(&architecture).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("cpu"), "{message:?} lacks {expected:?}");
    }
}
