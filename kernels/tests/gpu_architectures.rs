//! Every part of an architecture that the GPU engine computes, against the reference, and every part that it refuses.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod gpu_support;

use assay_kernels::architecture::{
    Activation, Dense, Head, Mask, MlpKind, Norm, NormKind, NormPlacement, Pooling, Positions, RelativePositions,
    Rotary,
};
use assay_kernels::gpu::{GpuEngine, GpuError, GpuOptions, KernelFamily};
use assay_kernels::{Architecture, PackedBatch, Precision, Row, Task, TokenTypes, reference};
use gpu_support::common::{Shape, UNIFORM_TOLERANCE, architecture, random_model, random_rows, uniform_rows};
use gpu_support::{F32_TOLERANCE, assert_close, engine_of, run, shared_device, tolerance};

fn base() -> Architecture {
    let task = Task::CrossEncoder;
    architecture(Shape { heads: 3, head_dim: 16, intermediate: 100, layers: 2, outputs: 2, task })
}

fn classifier(dense: Option<Dense>, bias: bool) -> Head {
    Head::Classifier { dense, labels: 2, bias }
}

/// Architectures that together have every part which the engine computes.
fn computed() -> Vec<(&'static str, Architecture)> {
    let mut offset = base();
    offset.embeddings.positions = Positions::Learned { rows: 602, first: 2, padding_id: Some(1) };
    offset.embeddings.token_types = TokenTypes::One;
    offset.block.norm.eps = 1e-5;
    offset.head = classifier(Some(Dense { bias: true, activation: Some(Activation::Gelu), norm: None }), true);
    let mut bare = base();
    bare.embeddings.token_types = TokenTypes::None;
    bare.embeddings.norm = Some(Norm { bias: false, ..bare.block.norm });
    bare.block.norm.bias = false;
    bare.block.attention.query_key_value_bias = false;
    bare.block.attention.output_bias = false;
    bare.block.mlp.intermediate_bias = false;
    bare.block.mlp.output_bias = false;
    bare.block.mlp.activation = Activation::Relu;
    bare.head = classifier(None, false);
    let mut projected = base();
    projected.embeddings.width = 20;
    projected.block.mlp.activation = Activation::GeluTanh;
    projected.head = classifier(Some(Dense { bias: false, activation: Some(Activation::Relu), norm: None }), true);
    let mut wide = base();
    wide.embeddings.width = 256;
    wide.block.mlp.activation = Activation::Silu;
    wide.head = classifier(Some(Dense { bias: true, activation: None, norm: None }), true);
    let mut embedder = projected.clone();
    (embedder.head, embedder.pooling) = (Head::Embedding, Pooling::Mean);
    let mut first_token = base();
    first_token.head = Head::Embedding;
    // ModernBERT's parts.
    let mut modern = base();
    let norm = Norm { eps: 1e-5, bias: false, ..modern.block.norm };
    modern.embeddings.positions = Positions::None;
    modern.embeddings.token_types = TokenTypes::None;
    modern.embeddings.norm = Some(norm);
    modern.block.norm = norm;
    modern.block.norm_placement = NormPlacement::Before;
    modern.block.mlp.kind = MlpKind::Gated;
    modern.block.mlp.intermediate_bias = false;
    modern.final_norm = Some(norm);
    modern.layers.push(modern.layers[0]);
    for (index, layer) in modern.layers.iter_mut().enumerate() {
        layer.attention_norm = index > 0;
        layer.mask = if index == 0 { Mask::All } else { Mask::Window { radius: 8 } };
        layer.rotary = Some(Rotary::of_theta(if index == 0 { 160_000.0 } else { 10_000.0 }));
    }
    modern.head = classifier(Some(Dense { bias: false, activation: Some(Activation::Gelu), norm: Some(norm) }), true);
    let mut modern_mean = modern.clone();
    modern_mean.pooling = Pooling::Mean;
    modern_mean.block.mlp.activation = Activation::Silu;
    modern_mean.block.mlp.intermediate_bias = true;
    let mut one_layer = modern.clone();
    one_layer.layers.truncate(1);
    let mut gte = base();
    gte.embeddings.positions = Positions::None;
    gte.block.mlp.kind = MlpKind::Gated;
    gte.layers.iter_mut().for_each(|layer| layer.rotary = Some(Rotary { theta: 160_000.0, frequency_divisor: 1.07 }));
    // Distances beyond 8 share rows of the table, and rows have distances beyond its last row.
    let mut deberta = base();
    deberta.embeddings.positions = Positions::None;
    deberta.block.attention.relative =
        Some(RelativePositions { span: 16, max_distance: Some(40), norm: Some(deberta.block.norm) });
    let mut every_distance = base();
    every_distance.block.attention.relative = Some(RelativePositions { span: 50, max_distance: None, norm: None });
    every_distance.pooling = Pooling::Mean;
    vec![
        ("positions with an offset", offset),
        ("no biases, no token types, no dense layer", bare),
        ("narrow embeddings", projected),
        ("wide embeddings", wide),
        ("an embedder", embedder),
        ("an embedder of first tokens", first_token),
        ("modernbert", modern),
        ("modernbert by the mean", modern_mean),
        ("modernbert whose last layer has no norm of attention", one_layer),
        ("gte", gte),
        ("deberta", deberta),
        ("a row of the table for every distance", every_distance),
    ]
}

/// Rows in which token 1, the padding of some architectures, comes at the start, within, and at the end.
fn rows() -> PackedBatch {
    let mut rows = random_rows(&[1, 2, 16, 33, 70], 3);
    for ids in [&[1][..], &[1, 1, 5], &[7, 1, 8, 1, 1, 9], &[4, 5, 1]] {
        rows.push(Row { ids, second_segment: ids.len() / 2 }).unwrap();
    }
    rows
}

#[test]
fn every_part_that_is_computed_matches_the_reference() {
    for (what, architecture) in computed() {
        let model = random_model(architecture, 7);
        let expected = reference::forward(&model, &rows());
        for precision in [Precision::F32, Precision::F16] {
            for family in [KernelFamily::Software, KernelFamily::Gpu] {
                let Some(mut engine) = engine_of(model.clone(), precision, 1024, Some(family)) else { return };
                let what = format!("{what} {} {family:?}", precision.name());
                assert_close(&what, &run(&mut engine, &rows()), &expected, tolerance(precision));
            }
        }
    }
}

#[test]
fn rows_of_8192_tokens_match_the_reference() {
    let (_, mut long) = computed().into_iter().find(|(what, _)| *what == "modernbert").unwrap();
    long.max_tokens = 8_192;
    for layer in &mut long.layers[1..] {
        layer.mask = Mask::Window { radius: 64 };
    }
    let model = random_model(long, 11);
    let rows = random_rows(&[8_192], 5);
    let Some(mut engine) = engine_of(model.clone(), Precision::F32, 8_192, None) else { return };
    let expected = reference::forward(&model, &rows);
    assert_close("8192 tokens", &run(&mut engine, &rows), &expected, F32_TOLERANCE);
}

#[test]
fn rows_of_one_token_over_and_over_match_the_reference() {
    for (what, mut architecture) in computed() {
        // Nothing tells one token from another without positions.
        if architecture.embeddings.positions == Positions::None {
            architecture.max_tokens = 1_500;
            let (model, rows) = (random_model(architecture, 7), uniform_rows(&[512, 1_500]));
            let expected = reference::forward(&model, &rows);
            for family in [KernelFamily::Software, KernelFamily::Gpu] {
                let Some(mut engine) = engine_of(model.clone(), Precision::F32, 2_048, Some(family)) else { return };
                assert_close(&format!("{what} {family:?}"), &run(&mut engine, &rows), &expected, UNIFORM_TOLERANCE);
            }
        }
    }
}

#[test]
fn every_part_that_is_not_computed_is_refused_by_name() {
    type Change = fn(&mut Architecture);
    let cases: [(Change, &str); 11] = [
        (|a| a.embeddings.norm = None, "embeddings without a norm"),
        (|a| a.embeddings.width = 18, "embeddings of 18 numbers"),
        (|a| a.block.norm.kind = NormKind::Rms, "RMSNorm"),
        (|a| a.layers[0].attention_norm = false, "layers without a norm after attention"),
        (|a| a.block.attention.kv_heads = 1, "key and value heads"),
        (|a| a.block.attention.head_dim = 12, "attention heads of 12 numbers"),
        (|a| a.block.attention.heads = 2, "key and value heads"),
        (|a| a.layers[1].mask = Mask::Causal, "causal attention"),
        (|a| a.layers[0].rotary = Some(Rotary::of_theta(10_000.0)), "rotary positions beside a position table"),
        (
            |a| {
                a.embeddings.positions = Positions::None;
                a.layers[0].rotary = Some(Rotary::of_theta(10_000.0));
                a.block.attention.relative = Some(RelativePositions { span: 8, max_distance: None, norm: None });
            },
            "rotary positions beside relative ones",
        ),
        (|a| a.pooling = Pooling::Last, "pooling of the last token"),
    ];
    GpuEngine::supports(&base()).unwrap();
    for (change, expected) in cases {
        let mut architecture = base();
        change(&mut architecture);
        let message = GpuEngine::supports(&architecture).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("gpu"), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn longer_rows_than_a_dispatch_takes_are_refused_with_the_limit() {
    let Some(device) = shared_device() else { return };
    let mut architecture = base();
    (architecture.max_tokens, architecture.embeddings.positions) =
        (70_000, Positions::Learned { rows: 70_000, first: 0, padding_id: None });
    let options = GpuOptions::default();
    match GpuEngine::memory_needed(&device, &architecture, &options) {
        Err(GpuError::BatchTooLong { tokens: 70_000, limit: 65_535 }) => {}
        other => panic!("{other:?}"),
    }
    let int8 = GpuOptions { precision: Precision::Int8, ..options };
    let error = GpuEngine::memory_needed(&device, &base(), &int8).unwrap_err();
    assert!(error.to_string().contains("int8: it has f32, f16"), "{error}");
}
