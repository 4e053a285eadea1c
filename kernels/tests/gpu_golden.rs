//! The whole model on a GPU adapter against the golden logits, and rows packed together against the same rows alone.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod gpu_support;

use assay_kernels::architecture::{Head, NormPlacement, Pooling};
use assay_kernels::gpu::KernelFamily;
use assay_kernels::gpu::choices::NormChoice;
use assay_kernels::{Model, PackedBatch, Precision};
use gpu_support::{
    F16_TOLERANCE, Golden, assert_close, default_goldens, default_model, engine, engine_of, run, tiny, tolerance,
};

/// Models of `testdata/models` that the engine computes.
const TINY: [&str; 17] = [
    "bert-hd32",
    "bert-hd64",
    "bert-hd16-3labels",
    "xlm-roberta",
    "roberta",
    "camembert",
    "distilbert",
    "electra",
    "electra-projected",
    "modernbert-cls",
    "modernbert-mean",
    "ettin",
    "deberta-v2",
    "deberta-v3",
    "gte",
    "gte-new",
    "jina-v2",
];

#[test]
fn tiny_models_in_f32_match_their_goldens() {
    for name in TINY {
        let Some((weights, golden)) = tiny(name) else { return };
        check(name, weights, &golden, Precision::F32);
    }
}

#[test]
fn tiny_models_in_f16_match_their_goldens() {
    for name in TINY {
        let Some((weights, golden)) = tiny(name) else { return };
        check(name, weights, &golden, Precision::F16);
    }
}

#[test]
fn the_default_model_in_f32_matches_its_golden() {
    let Some(weights) = default_model() else { return };
    for golden in default_goldens() {
        check("default model", weights.clone(), &golden, Precision::F32);
    }
}

#[test]
fn the_default_model_in_f16_matches_its_golden_and_flips_no_ranks() {
    let Some(weights) = default_model() else { return };
    for golden in default_goldens() {
        let Some(logits) = check("default model", weights.clone(), &golden, Precision::F16) else { return };
        for (i, a) in golden.logits.iter().enumerate() {
            for (j, b) in golden.logits.iter().enumerate() {
                // Rows closer than twice the tolerance are ties.
                if a - b > 2.0 * F16_TOLERANCE {
                    assert!(logits[i] > logits[j], "rows {i} and {j} change places");
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_company() {
    for (name, precision) in ["bert-hd32", "ettin"].into_iter().flat_map(|n| [(n, Precision::F32), (n, Precision::F16)])
    {
        let Some((weights, golden)) = tiny(name) else { return };
        let Some(mut engine) = engine(weights, precision, 4096) else { return };
        let together = run(&mut engine, &golden.batch);
        let mut alone = Vec::new();
        for row in golden.batch.iter() {
            let mut batch = PackedBatch::default();
            batch.push(row).unwrap();
            alone.extend(run(&mut engine, &batch));
        }
        let mut backwards = PackedBatch::default();
        for index in (0..golden.batch.rows()).rev() {
            backwards.push(golden.batch.row(index)).unwrap();
        }
        let mut reversed = run(&mut engine, &backwards);
        reversed.reverse();
        assert_eq!(together, alone);
        assert_eq!(together, reversed);
    }
}

#[test]
fn kernels_for_gpus_match_the_goldens_on_any_adapter() {
    for name in TINY {
        let Some((weights, golden)) = tiny(name) else { return };
        for precision in [Precision::F32, Precision::F16] {
            let Some(mut engine) = engine_of(weights.clone(), precision, 2048, Some(KernelFamily::Gpu)) else { return };
            let is_before = weights.architecture.block.norm_placement == NormPlacement::Before;
            assert_eq!(matches!(engine.choices().large.norm, NormChoice::Fused), !is_before);
            let logits = run(&mut engine, &golden.batch);
            let name = format!("{name} {} for GPUs", precision.name());
            assert_close(&name, &logits, &golden.logits, tolerance(precision));
        }
    }
}

#[test]
fn embeddings_match_the_reference() {
    let Some((weights, golden)) = tiny("bert-hd64") else { return };
    let mut weights = weights;
    weights.weights.head = None;
    (weights.architecture.pooling, weights.architecture.head) = (Pooling::Mean, Head::Embedding);
    let mut batch = PackedBatch::default();
    for row in golden.batch.iter().take(12) {
        batch.push(row).unwrap();
    }
    let logits = assay_kernels::reference::forward(&weights, &batch);
    let golden = Golden { batch, logits };
    check("embeddings", weights.clone(), &golden, Precision::F32);
    check("embeddings", weights, &golden, Precision::F16);
}

#[test]
#[ignore = "for a second driver, SwiftShader: `cargo xtask gpu-test --swiftshader`"]
fn a_second_driver_matches_the_goldens() {
    for name in TINY {
        let Some((weights, golden)) = tiny(name) else { return };
        for family in [KernelFamily::Software, KernelFamily::Gpu] {
            for precision in [Precision::F32, Precision::F16] {
                let mut engine = engine_of(weights.clone(), precision, 2048, Some(family)).unwrap();
                let adapter = &engine.device().description().name;
                assert!(
                    adapter.contains("SwiftShader"),
                    "{adapter} is not it: start with `cargo xtask gpu-test --swiftshader`"
                );
                let logits = run(&mut engine, &golden.batch);
                let name = format!("{name} {} {family:?}", precision.name());
                assert_close(&name, &logits, &golden.logits, tolerance(precision));
            }
        }
    }
}

fn check(name: &str, weights: Model, golden: &Golden, precision: Precision) -> Option<Vec<f32>> {
    let mut engine = engine(weights, precision, 2048)?;
    let logits = run(&mut engine, &golden.batch);
    assert_close(&format!("{name} {}", precision.name()), &logits, &golden.logits, tolerance(precision));
    Some(logits)
}
