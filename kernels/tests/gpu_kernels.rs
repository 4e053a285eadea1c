//! Every GPU kernel against float64, each variant and both number formats, at sizes around its tiles.
//!
//! Outputs are poisoned before each run, so a number that was not written cannot pass, and what lies past an output must
//! keep its poison. Inputs are rounded to the number format first: what is measured is the kernel, not the format.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "dispatching a single unchecked kernel, in one place")]

mod gpu_support;

use assay_kernels::architecture::{Attention as Heads, Mask, Pooling};
use assay_kernels::gpu::kernel::{Extent, Op};
use assay_kernels::gpu::layout::{Layout, TILE};
use assay_kernels::gpu::ops::Target;
use assay_kernels::gpu::ops::attention::{Attention, AttentionShape, Tile, tiles};
use assay_kernels::gpu::ops::classify::Classify;
use assay_kernels::gpu::ops::embed::{Embed, Token};
use assay_kernels::gpu::ops::gather::Gather;
use assay_kernels::gpu::ops::gemm::{Epilogue, Gemm, GemmShape, GemmVariant};
use assay_kernels::gpu::ops::gemm_norm::{GemmNorm, params};
use assay_kernels::gpu::ops::layer_norm::LayerNorm;
use assay_kernels::gpu::ops::pool::{PoolMean, PoolNormalise};
use assay_kernels::gpu::{GpuDevice, Precision};
use assay_kernels::reference;
use assay_kernels::weights::{Linear, NormWeights};
use gpu_support::{Random, assert_close, device};
use wgpu::BufferUsages;

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::F16];
const TARGETS: [Target; 2] = [Target::Gpu, Target::Software];
/// Row counts around the kernels' tiles, and around the longest row.
const ROWS: [usize; 11] = [1, 15, 16, 17, 31, 33, 63, 64, 65, 511, 512];
/// Rows of poison past each output.
const SPARE_ROWS: usize = 64;
const POISON: f32 = 12345.0;
const EPS: f64 = 1e-12;

#[test]
fn gemm_matches_float64_with_every_epilogue_and_variant() {
    let Some(gpu) = device() else { return };
    let mut random = Random(1);
    for precision in PRECISIONS {
        for (k, n, epilogue) in [
            (TILE, TILE, Epilogue::Bias),
            (TILE, 3 * TILE, Epilogue::Gelu),
            (3 * TILE, TILE, Epilogue::Residual),
            (2 * TILE, 4 * TILE, Epilogue::Tanh),
        ] {
            let cooperative = GemmVariant::cooperative(&gpu, precision);
            let all = GemmVariant::all(n).into_iter().filter(|v| !matches!(v, GemmVariant::Cooperative { .. }));
            // Pipelines of software adapters take a second each: every width of tile once is enough.
            let sampled = |v: &GemmVariant| n > TILE || matches!(v.columns(), TILE | 64);
            for variant in all.filter(sampled).chain(cooperative) {
                let gemm = Gemm::new(&gpu, GemmShape::new(k, n, epilogue), variant, precision).unwrap();
                for rows in [1, 15, 16, 17, 63, 64, 65] {
                    check_gemm(&gpu, &gemm, (rows, k, n, epilogue), precision, variant, &mut random);
                }
            }
        }
    }
}

#[test]
fn gemm_matches_float64_at_the_widths_of_the_default_model() {
    let Some(gpu) = device() else { return };
    let mut random = Random(2);
    for precision in PRECISIONS {
        for (k, n, epilogue) in [
            (384, 1152, Epilogue::Bias),
            (384, 384, Epilogue::Residual),
            (384, 1536, Epilogue::Gelu),
            (1536, 384, Epilogue::Residual),
        ] {
            for variant in [GemmVariant::Tile { threads: 96 }, GemmVariant::Software { threads: 32 }] {
                let gemm = Gemm::new(&gpu, GemmShape::new(k, n, epilogue), variant, precision).unwrap();
                for rows in [511, 512] {
                    check_gemm(&gpu, &gemm, (rows, k, n, epilogue), precision, variant, &mut random);
                }
            }
        }
    }
}

fn check_gemm(
    gpu: &GpuDevice,
    gemm: &Gemm,
    (rows, k, n, epilogue): (usize, usize, usize, Epilogue),
    precision: Precision,
    variant: GemmVariant,
    random: &mut Random,
) {
    let padded = rows.next_multiple_of(64);
    // Asymmetric on purpose: a transposed operand must not pass.
    let a = rounded(precision, &random.numbers(padded * k));
    let w = rounded(precision, &random.numbers(k * n).iter().map(|x| x * 0.1).collect::<Vec<_>>());
    let bias = random.numbers(n);
    let residual = rounded(precision, &random.numbers(padded * n));
    let y = poisoned(gpu, precision, (padded + SPARE_ROWS) * n);
    let buffers = [
        &stored(gpu, precision, &a),
        &stored(gpu, precision, &w),
        &plain(gpu, &bias),
        &stored(gpu, precision, &residual),
        &y,
    ];
    let group = gemm.bind(gpu, buffers);
    dispatch(gpu, gemm, &group, &Extent { rows: rows as u32, ..Extent::default() });

    let transposed: Vec<f32> = (0..n).flat_map(|column| w[column..].iter().step_by(n).copied()).collect();
    let mut expected =
        reference::linear(&widen(&a[..rows * k]), &Linear { weight: transposed, bias: Some(bias), inputs: k });
    for (value, &residual) in expected.iter_mut().zip(&residual) {
        *value = match epilogue {
            Epilogue::Bias => *value,
            Epilogue::Gelu => reference::gelu(*value),
            Epilogue::Residual => *value + f64::from(residual),
            Epilogue::Tanh => value.tanh(),
        };
    }
    let what = format!("gemm {rows}x{k}x{n} {epilogue:?} {variant:?} {precision:?}");
    check_output(gpu, &what, precision, &y, &expected, padded * n, 2e-5, 4e-3);
}

#[test]
fn gemm_with_residual_and_layer_norm_matches_float64() {
    let Some(gpu) = device() else { return };
    let mut random = Random(12);
    for (precision, hidden, k) in PRECISIONS.into_iter().flat_map(|p| [(p, 48, 128), (p, 384, 256)]) {
        let layout = layout(hidden, precision);
        let n = layout.hidden_padded;
        let op = GemmNorm::new(&gpu, layout, (k, k), EPS).unwrap();
        for rows in [1usize, 15, 16, 17, 63, 64, 65] {
            let padded = rows.next_multiple_of(64);
            let a = rounded(precision, &random.numbers(padded * k));
            // As loaded: columns past the hidden size are zero.
            let real = |values: Vec<f32>| -> Vec<f32> {
                values.iter().enumerate().map(|(i, &x)| if i % n < hidden { x } else { 0.0 }).collect()
            };
            let w = real(rounded(precision, &random.numbers(k * n).iter().map(|x| x * 0.1).collect::<Vec<_>>()));
            let bias = random.numbers(hidden);
            let residual = real(rounded(precision, &random.numbers(padded * n)));
            let norm = NormWeights { weight: random.numbers(hidden), bias: Some(random.numbers(hidden)) };
            let y = poisoned(&gpu, precision, (padded + SPARE_ROWS) * n);
            let params = plain(&gpu, &params(&layout, &bias, &norm));
            let [a_buffer, w_buffer] = [&a, &w].map(|values| stored(&gpu, precision, values));
            let group = op.bind(&gpu, [&a_buffer, &w_buffer, &params, &stored(&gpu, precision, &residual), &y]);
            let extent = Extent { rows: rows as u32, ..Extent::default() };
            dispatch(&gpu, &op, &group, &extent);
            let weight = (0..hidden).flat_map(|column| w[column..].iter().step_by(n).copied()).collect();
            let sums =
                reference::linear(&widen(&a[..rows * k]), &Linear { weight, bias: Some(bias.clone()), inputs: k });
            let mut expected = Vec::new();
            for (row, sum) in sums.chunks_exact(hidden).enumerate() {
                let added = &residual[row * n..row * n + hidden];
                let mut state: Vec<f64> = sum.iter().zip(added).map(|(s, &r)| s + f64::from(r)).collect();
                reference::layer_norm(&mut state, &norm, EPS);
                state.resize(n, 0.0);
                expected.extend(state);
            }
            let what = format!("gemm_norm {rows}x{k}x{hidden} {precision:?}");
            check_output(&gpu, &what, precision, &y, &expected, padded * n, 2e-5, 4e-3);
        }
    }
}

#[test]
fn attention_matches_float64_for_every_head_width() {
    let Some(gpu) = device() else { return };
    let mut random = Random(3);
    for precision in PRECISIONS {
        for target in TARGETS {
            for (heads, head_dim) in [(3, 16), (2, 32), (2, 48), (1, 64), (1, 96), (2, 128)] {
                let threads: &[u32] = match (target, head_dim) {
                    (Target::Software, _) => &[8],
                    (Target::Gpu, 32) => &[32, 64, 128],
                    (Target::Gpu, _) => &[64],
                };
                for &threads in threads {
                    let lengths = [1, 15, 16, 17, 64, 65];
                    check_attention(&gpu, (heads, head_dim, threads), &lengths, precision, target, &mut random);
                }
            }
        }
    }
}

#[test]
fn attention_matches_float64_at_the_longest_rows() {
    let Some(gpu) = device() else { return };
    let mut random = Random(4);
    for precision in PRECISIONS {
        for target in TARGETS {
            let lengths = [63, 511, 512];
            check_attention(&gpu, (12, 32, 64), &lengths, precision, target, &mut random);
        }
    }
}

fn check_attention(
    gpu: &GpuDevice,
    (heads, head_dim, threads): (usize, usize, u32),
    lengths: &[u32],
    precision: Precision,
    target: Target,
    random: &mut Random,
) {
    let hidden = heads * head_dim;
    let padded = hidden.next_multiple_of(TILE);
    let layout = Layout { hidden, hidden_padded: padded, intermediate_padded: padded, heads, head_dim, precision };
    let attention = Attention::new(gpu, AttentionShape::all(&layout), target, threads, precision).unwrap();
    let tokens: u32 = lengths.iter().sum();
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    let qkv =
        rounded(precision, &random.numbers(tokens as usize * 3 * padded).iter().map(|x| 3.0 * x).collect::<Vec<_>>());
    let mut list = Vec::new();
    tiles(&offsets, threads, &mut list);
    let context = poisoned(gpu, precision, (tokens as usize + SPARE_ROWS) * padded);
    let qkv_buffer = stored(gpu, precision, &qkv);
    let list_buffer = gpu.buffer_with("tiles", bytemuck::cast_slice(&list), BufferUsages::STORAGE).unwrap();
    let group = attention.bind(gpu, &qkv_buffer, &qkv_buffer, list_buffer.as_entire_buffer_binding(), &context);
    let extent = Extent { rows: tokens, tiles: list.len() as u32, query_keys: 0 };
    dispatch(gpu, &attention, &group, &extent);

    // The kernel takes exp2 of unscaled scores; the reference takes exp of scores over √head_dim.
    let scale = (head_dim as f64).sqrt() / std::f64::consts::LOG2_E;
    let part = |row: &[f32], first: usize, scale: f64| -> Vec<f64> {
        row[first..first + hidden].iter().map(|&x| f64::from(x) * scale).collect()
    };
    let mut expected = vec![f64::from(POISON); tokens as usize * padded];
    for row in offsets.windows(2) {
        let rows = qkv[row[0] as usize * 3 * padded..row[1] as usize * 3 * padded].chunks_exact(3 * padded);
        let query: Vec<f64> = rows.clone().flat_map(|r| part(r, 0, scale)).collect();
        let key: Vec<f64> = rows.clone().flat_map(|r| part(r, padded, 1.0)).collect();
        let value: Vec<f64> = rows.flat_map(|r| part(r, 2 * padded, 1.0)).collect();
        let row_context =
            reference::attention(&query, &key, &value, &Heads::of_heads(heads, hidden / heads), Mask::All);
        for (index, values) in row_context.chunks_exact(hidden).enumerate() {
            let start = (row[0] as usize + index) * padded;
            expected[start..start + hidden].copy_from_slice(values);
        }
    }
    let what = format!("attention {heads}x{head_dim} t{threads} {precision:?} {target:?}");
    check_output(gpu, &what, precision, &context, &expected, expected.len(), 2e-5, 4e-3);
}

#[test]
fn attention_of_first_tokens_reads_the_keys_of_their_own_rows() {
    let Some(gpu) = device() else { return };
    for (precision, target) in PRECISIONS.into_iter().flat_map(|p| TARGETS.map(|t| (p, t))) {
        let mut random = Random(5);
        let layout =
            Layout { hidden: 64, hidden_padded: 128, intermediate_padded: 128, heads: 2, head_dim: 32, precision };
        let op = Attention::new(&gpu, AttentionShape::first_tokens(&layout), target, 8, precision).unwrap();
        let rows = [
            Tile { query_start: 0, queries: 1, key_start: 0, keys: 5 },
            Tile { query_start: 1, queries: 1, key_start: 5, keys: 1 },
            Tile { query_start: 2, queries: 1, key_start: 6, keys: 20 },
        ];
        let q = rounded(precision, &random.numbers(3 * 128));
        let kv = rounded(precision, &random.numbers(26 * 384));
        let context = poisoned(&gpu, precision, (3 + SPARE_ROWS) * 128);
        let list = gpu.buffer_with("rows", bytemuck::cast_slice(&rows), BufferUsages::STORAGE).unwrap();
        let (q_buffer, kv_buffer) = (stored(&gpu, precision, &q), stored(&gpu, precision, &kv));
        let group = op.bind(&gpu, &q_buffer, &kv_buffer, list.as_entire_buffer_binding(), &context);
        dispatch(&gpu, &op, &group, &Extent { rows: 3, tiles: 3, query_keys: 26 });
        let scale = 32f64.sqrt() / std::f64::consts::LOG2_E;
        let mut expected = vec![f64::from(POISON); 3 * 128];
        for (index, tile) in rows.iter().enumerate() {
            let keys = &kv[tile.key_start as usize * 384..(tile.key_start + tile.keys) as usize * 384];
            let column = |first: usize| -> Vec<f64> {
                keys.chunks_exact(384).flat_map(|row| widen(&row[first..first + 64])).collect()
            };
            // The reference takes as many queries as keys: repeat the one, keep the first.
            let one: Vec<f64> = q[index * 128..index * 128 + 64].iter().map(|&x| f64::from(x) * scale).collect();
            let queries = one.repeat(tile.keys as usize);
            let all = reference::attention(&queries, &column(128), &column(256), &Heads::of_heads(2, 32), Mask::All);
            expected[index * 128..index * 128 + 64].copy_from_slice(&all[..64]);
        }
        let what = format!("first tokens {precision:?} {target:?}");
        check_output(&gpu, &what, precision, &context, &expected, expected.len(), 1e-5, 2e-3);
    }
}

#[test]
fn layer_norm_matches_float64_and_leaves_the_padding() {
    let Some(gpu) = device() else { return };
    let mut random = Random(6);
    for (precision, target) in PRECISIONS.into_iter().flat_map(|p| TARGETS.map(|t| (p, t))) {
        for hidden in [48, 128, 384, 1024] {
            let layout = layout(hidden, precision);
            let op = LayerNorm::new(&gpu, layout, EPS, target).unwrap();
            for rows in if hidden == 384 { &ROWS[..] } else { &[1, 5, 9] } {
                // Far from zero on purpose: a one-pass variance would cancel.
                let x: Vec<f32> = random.numbers(rows * layout.hidden_padded).iter().map(|x| x + 4.0).collect();
                let x = rounded(precision, &x);
                let norm = NormWeights { weight: random.numbers(hidden), bias: Some(random.numbers(hidden)) };
                let y = poisoned(&gpu, precision, (rows + SPARE_ROWS) * layout.hidden_padded);
                let (weight, bias) = (plain(&gpu, &norm.weight), plain(&gpu, norm.bias.as_ref().unwrap()));
                let group = op.bind(&gpu, [&stored(&gpu, precision, &x), &weight, &bias, &y]);
                let extent = Extent { rows: *rows as u32, ..Extent::default() };
                dispatch(&gpu, &op, &group, &extent);
                let mut expected = Vec::new();
                for row in x.chunks_exact(layout.hidden_padded) {
                    let mut state = widen(&row[..hidden]);
                    reference::layer_norm(&mut state, &norm, EPS);
                    state.resize(layout.hidden_padded, f64::from(POISON));
                    expected.extend(state);
                }
                let what = format!("layer_norm {rows}x{hidden} {precision:?} {target:?}");
                check_output(&gpu, &what, precision, &y, &expected, expected.len(), 2e-5, 4e-3);
            }
        }
    }
}

#[test]
fn embed_sums_the_three_tables_and_normalises() {
    let Some(gpu) = device() else { return };
    let mut random = Random(7);
    for (precision, target) in PRECISIONS.into_iter().flat_map(|p| TARGETS.map(|t| (p, t))) {
        for (rows, hidden) in [(1, 384), (9, 48), (65, 384)] {
            let layout = layout(hidden, precision);
            let op = Embed::new(&gpu, layout, EPS, target).unwrap();
            let [word, position] = [100, 70].map(|n| rounded(precision, &random.numbers(n * hidden)));
            let token_type = rounded(precision, &random.numbers(2 * hidden));
            let norm = NormWeights { weight: random.numbers(hidden), bias: Some(random.numbers(hidden)) };
            let tokens: Vec<(usize, usize, usize)> = (0..rows).map(|i| (random.below(100), i, i % 3 % 2)).collect();
            let upload: Vec<Token> =
                tokens.iter().map(|&(id, at, t)| Token { id: id as u32, place: (at << 1 | t) as u32 }).collect();
            let tokens_buffer =
                gpu.buffer_with("tokens", bytemuck::cast_slice(&upload), BufferUsages::STORAGE).unwrap();
            let y = poisoned(&gpu, precision, (rows + SPARE_ROWS) * layout.hidden_padded);
            let norm_buffer = plain(&gpu, &[norm.weight.clone(), norm.bias.clone().unwrap()].concat());
            let tables = [&word, &position, &token_type].map(|table| stored(&gpu, precision, table));
            let bindings = [&tables[0], &tables[1], &tables[2], &norm_buffer];
            let group = op.bind(&gpu, tokens_buffer.as_entire_buffer_binding(), bindings, &y);
            let extent = Extent { rows: rows as u32, ..Extent::default() };
            dispatch(&gpu, &op, &group, &extent);
            let mut expected = Vec::new();
            for (id, at, t) in tokens {
                let sum = |c: usize| word[id * hidden + c] + position[at * hidden + c] + token_type[t * hidden + c];
                let mut state: Vec<f64> = (0..hidden).map(|c| f64::from(sum(c))).collect();
                reference::layer_norm(&mut state, &norm, EPS);
                state.resize(layout.hidden_padded, f64::from(POISON));
                expected.extend(state);
            }
            let what = format!("embed {rows}x{hidden} {precision:?} {target:?}");
            check_output(&gpu, &what, precision, &y, &expected, expected.len(), 2e-5, 4e-3);
        }
    }
}

#[test]
fn gather_copies_first_tokens() {
    let Some(gpu) = device() else { return };
    for precision in PRECISIONS {
        let layout = layout(48, precision);
        let op = Gather::new(&gpu, layout).unwrap();
        let x = rounded(precision, &Random(8).numbers(30 * 128));
        let starts = [0, 7, 8, 29];
        let y = poisoned(&gpu, precision, (starts.len() + SPARE_ROWS) * 128);
        let list = row_list(&gpu, &starts, 30);
        let group = op.bind(&gpu, list.as_entire_buffer_binding(), &stored(&gpu, precision, &x), &y);
        dispatch(&gpu, &op, &group, &Extent { rows: 4, ..Extent::default() });
        let expected: Vec<f64> =
            starts.iter().flat_map(|&s| widen(&x[s as usize * 128..(s as usize + 1) * 128])).collect();
        check_output(&gpu, "gather", precision, &y, &expected, expected.len(), 0.0, 0.0);
    }
}

#[test]
fn the_classifier_matches_float64() {
    let Some(gpu) = device() else { return };
    let mut random = Random(9);
    for precision in PRECISIONS {
        for (rows, hidden, outputs) in [(1, 384, 1), (65, 48, 3), (63, 384, 2)] {
            let layout = layout(hidden, precision);
            let op = Classify::new(&gpu, layout, outputs).unwrap();
            let x = rounded(precision, &random.numbers(rows * layout.hidden_padded));
            let linear = Linear {
                weight: random.numbers(outputs * hidden),
                bias: Some(random.numbers(outputs)),
                inputs: hidden,
            };
            let y = poisoned(&gpu, Precision::F32, (rows + SPARE_ROWS) * outputs);
            let (weight, bias) = (plain(&gpu, &linear.weight), plain(&gpu, linear.bias.as_ref().unwrap()));
            let group = op.bind(&gpu, [&stored(&gpu, precision, &x), &weight, &bias, &y]);
            dispatch(&gpu, &op, &group, &Extent { rows: rows as u32, ..Extent::default() });
            let states: Vec<f64> = x.chunks_exact(layout.hidden_padded).flat_map(|row| widen(&row[..hidden])).collect();
            let expected = reference::linear(&states, &linear);
            check_output(&gpu, "classify", Precision::F32, &y, &expected, expected.len(), 2e-5, 2e-5);
        }
    }
}

#[test]
fn pooling_gives_unit_means() {
    let Some(gpu) = device() else { return };
    for precision in PRECISIONS {
        let layout = layout(48, precision);
        let x = rounded(precision, &Random(10).numbers(30 * 128));
        let starts = [0, 7, 8];
        let list = row_list(&gpu, &starts, 30);
        let mean = poisoned(&gpu, Precision::F32, (3 + SPARE_ROWS) * 48);
        let y = poisoned(&gpu, Precision::F32, (3 + SPARE_ROWS) * 48);
        let extent = Extent { rows: 3, ..Extent::default() };
        let op = PoolMean::new(&gpu, layout).unwrap();
        let group = op.bind(&gpu, list.as_entire_buffer_binding(), &stored(&gpu, precision, &x), &mean);
        dispatch(&gpu, &op, &group, &extent);
        let op = PoolNormalise::new(&gpu, layout).unwrap();
        dispatch(&gpu, &op, &op.bind(&gpu, &mean, &y), &extent);
        let mut expected = Vec::new();
        for (start, end) in [(0, 7), (7, 8), (8, 30)] {
            let states: Vec<f64> =
                x[start * 128..end * 128].chunks_exact(128).flat_map(|row| widen(&row[..48])).collect();
            expected.extend(reference::unit(reference::pool(Pooling::Mean, &states, 48)));
        }
        check_output(&gpu, "pool", Precision::F32, &y, &expected, expected.len(), 1e-6, 1e-6);
    }
}

fn layout(hidden: usize, precision: Precision) -> Layout {
    let hidden_padded = hidden.next_multiple_of(TILE);
    let (heads, head_dim) = (hidden / 16, 16);
    Layout { hidden, hidden_padded, intermediate_padded: TILE, heads, head_dim, precision }
}

/// Runs one dispatch of an op. Each test makes its buffers for the extent that it passes here, with rows to spare.
fn dispatch(gpu: &GpuDevice, op: &dyn Op, group: &wgpu::BindGroup, extent: &Extent) {
    // SAFETY: as above; the poison past each output is looked at after the run.
    unsafe { gpu.dispatch(op.kernel(), group, &op.work(extent)) }.unwrap();
}

fn row_list(gpu: &GpuDevice, starts: &[u32], end: u32) -> wgpu::Buffer {
    let ends = starts[1..].iter().copied().chain([end]);
    let rows: Vec<Tile> = (0..)
        .zip(starts.iter().zip(ends))
        .map(|(index, (&start, end))| Tile { query_start: index, queries: 1, key_start: start, keys: end - start })
        .collect();
    gpu.buffer_with("rows", bytemuck::cast_slice(&rows), BufferUsages::STORAGE).unwrap()
}

fn rounded(precision: Precision, values: &[f32]) -> Vec<f32> {
    precision.decode(&precision.encode(values))
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn stored(gpu: &GpuDevice, precision: Precision, values: &[f32]) -> wgpu::Buffer {
    gpu.buffer_with("stored", &precision.encode(values), BufferUsages::STORAGE).unwrap()
}

fn plain(gpu: &GpuDevice, values: &[f32]) -> wgpu::Buffer {
    stored(gpu, Precision::F32, values)
}

fn poisoned(gpu: &GpuDevice, precision: Precision, numbers: usize) -> wgpu::Buffer {
    let bytes = precision.encode(&vec![POISON; numbers]);
    gpu.buffer_with("output", &bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC).unwrap()
}

/// Compares the first numbers with `expected`, and what lies at `untouched_from` and after with the poison.
#[allow(clippy::too_many_arguments, reason = "a check names all that it compares")]
fn check_output(
    gpu: &GpuDevice,
    what: &str,
    precision: Precision,
    buffer: &wgpu::Buffer,
    expected: &[f64],
    untouched_from: usize,
    f32_tolerance: f64,
    f16_tolerance: f64,
) {
    let actual = precision.decode(&gpu.read(buffer).unwrap());
    let poison = rounded(precision, &[POISON])[0];
    let expected: Vec<f64> =
        expected.iter().map(|&x| if x == f64::from(POISON) { f64::from(poison) } else { x }).collect();
    let largest = expected.iter().filter(|&&x| x != f64::from(poison)).fold(1.0f64, |a, b| a.max(b.abs()));
    let tolerance = match precision {
        Precision::F32 => f32_tolerance,
        Precision::F16 => f16_tolerance,
    };
    assert_close(what, &actual[..expected.len()], &expected, tolerance * largest);
    for (index, &value) in actual[untouched_from..].iter().enumerate() {
        // The buffer itself is padded to 16 bytes with zeros.
        let padding = untouched_from + index >= buffer.size() as usize / precision.bytes() - 8 && value == 0.0;
        assert!(value == poison || padding, "{what}: wrote {value} at {}", untouched_from + index);
    }
}
