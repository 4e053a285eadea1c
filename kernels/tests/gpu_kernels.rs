//! Every GPU kernel against float64, each variant and both number formats, at sizes around its tiles.
//!
//! Outputs are poisoned before each run, so a number that was not written cannot pass, and what lies past an output
//! must keep its poison. Inputs are rounded to the number format first: what is measured is the kernel, not the format.
//!
//! One file for all kernels: they share the way to dispatch one and the device, which each program of tests opens anew.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "dispatching a single unchecked kernel, in one place")]

mod gpu_support;

use std::collections::BTreeMap;

use assay_kernels::architecture::{Activation, Attention as Heads, Mask, MlpKind, NormPlacement, Pooling, Rotary};
use assay_kernels::gpu::KernelFamily;
use assay_kernels::gpu::layout::{Layout, RowLayout, Storage, WIDTH_STEP, WordTable};
use assay_kernels::gpu::op::{Buffers, Extent, Op};
use assay_kernels::gpu::opened::OpenDevice;
use assay_kernels::gpu::ops::attention::{Attention, AttentionBuffers, AttentionShape, QueryTile, query_tiles};
use assay_kernels::gpu::ops::classify::{Classify, ClassifyBuffers};
use assay_kernels::gpu::ops::embed::{Embed, EmbedBuffers, Token};
use assay_kernels::gpu::ops::gather::{Gather, GatherBuffers};
use assay_kernels::gpu::ops::gemm::{Epilogue, Gemm, GemmBuffers, GemmShape, GemmVariant, Tile, pair_columns};
use assay_kernels::gpu::ops::gemm_norm::{GemmNorm, GemmNormBuffers};
use assay_kernels::gpu::ops::gemm_rotary::{self, GemmRotary, GemmRotaryBuffers};
use assay_kernels::gpu::ops::layer_norm::{LayerNorm, LayerNormBuffers};
use assay_kernels::gpu::ops::pool::{PoolMean, PoolMeanBuffers, PoolNormalise, PoolNormaliseBuffers};
use assay_kernels::reference;
use assay_kernels::weights::{Linear, NormWeights};
use gpu_support::{Random, assert_close, decode, device};
use wgpu::{BufferBinding, BufferUsages};

const STORAGES: [Storage; 2] = [Storage::F32, Storage::F16];
const FAMILIES: [KernelFamily; 2] = [KernelFamily::Gpu, KernelFamily::Software];
/// What a GEMM can end with.
const EPILOGUES: [Epilogue; 9] = [
    Epilogue::Bias,
    Epilogue::Residual,
    Epilogue::Activation(Activation::Gelu),
    Epilogue::Activation(Activation::GeluTanh),
    Epilogue::Activation(Activation::Silu),
    Epilogue::Activation(Activation::Relu),
    Epilogue::Activation(Activation::Tanh),
    Epilogue::Gate(Activation::Gelu),
    Epilogue::Gate(Activation::Silu),
];
/// Row counts around the kernels' tiles, and around the longest row.
const ROWS: [usize; 11] = [1, 15, 16, 17, 31, 33, 63, 64, 65, 511, 512];
/// Row counts around the tiles of one workgroup.
const GEMM_ROWS: [usize; 7] = [1, 15, 16, 17, 63, 64, 65];
/// Rows of poison past each output.
const SPARE_ROWS: usize = 64;
const POISON: f32 = 12345.0;
const EPS: f64 = 1e-12;

#[test]
fn gemm_matches_float64_with_every_variant() {
    let Some(gpu) = device() else { return };
    for storage in STORAGES {
        for (k, n, epilogue) in [
            (WIDTH_STEP, WIDTH_STEP, Epilogue::Bias),
            (WIDTH_STEP, 3 * WIDTH_STEP, Epilogue::Activation(Activation::Gelu)),
            (3 * WIDTH_STEP, WIDTH_STEP, Epilogue::Residual),
            (2 * WIDTH_STEP, 4 * WIDTH_STEP, Epilogue::Activation(Activation::Tanh)),
            (WIDTH_STEP, 4 * WIDTH_STEP, Epilogue::Gate(Activation::GeluTanh)),
        ] {
            // Pipelines of software adapters take a second each: every width of tile once is enough.
            let sampled = |v: &GemmVariant| n > WIDTH_STEP || matches!(v.columns(), WIDTH_STEP | 64);
            for family in FAMILIES {
                let mut of_variants = SameNumbers::default();
                let variants = GemmVariant::candidates(gpu.description(), family, n, storage);
                for (variant, rows) in
                    variants.into_iter().filter(sampled).flat_map(|v| GEMM_ROWS.map(|rows| (v, rows)))
                {
                    let shape = GemmShape::new(k, n, epilogue);
                    let numbers = check_gemm(&gpu, shape, rows, variant, storage, &mut Random(rows as u64));
                    // Tuning never takes one of the others for small batches only.
                    if !variant.is_cooperative() {
                        of_variants.check(rows, &format!("{variant:?} of {shape:?} {storage:?}"), &numbers);
                    }
                }
            }
        }
    }
}

#[test]
fn gemm_matches_float64_with_every_epilogue() {
    let Some(gpu) = device() else { return };
    let mut random = Random(13);
    for (storage, epilogue) in STORAGES.into_iter().flat_map(|s| EPILOGUES.map(|e| (s, e))) {
        for variant in [GemmVariant::Tile(Tile::wide(32)), GemmVariant::Software { threads: 32 }] {
            let shape = GemmShape::new(WIDTH_STEP, WIDTH_STEP, epilogue);
            check_gemm(&gpu, shape, 17, variant, storage, &mut random);
        }
    }
}

#[test]
fn gemm_matches_float64_at_the_widths_of_the_default_model() {
    let Some(gpu) = device() else { return };
    let mut random = Random(2);
    for storage in STORAGES {
        for (k, n, epilogue) in [
            (384, 1152, Epilogue::Bias),
            (384, 384, Epilogue::Residual),
            (384, 1536, Epilogue::Activation(Activation::Gelu)),
            (1536, 384, Epilogue::Residual),
        ] {
            for variant in [GemmVariant::Tile(Tile::wide(96)), GemmVariant::Software { threads: 32 }] {
                for rows in [511, 512] {
                    check_gemm(&gpu, GemmShape::new(k, n, epilogue), rows, variant, storage, &mut random);
                }
            }
        }
    }
}

#[test]
fn gemm_matches_float64_on_cooperative_matrices_where_the_adapter_has_them() {
    let Some(gpu) = device() else { return };
    let mut random = Random(17);
    let variants = STORAGES.map(|storage| {
        let of_storage = |barrier| GemmVariant::cooperative(gpu.description(), storage, barrier);
        [false, true].map(|barrier| of_storage(barrier).map(|variant| (storage, variant)))
    });
    let variants: Vec<_> = variants.into_iter().flatten().flatten().collect();
    for &(storage, variant) in &variants {
        for epilogue in [Epilogue::Bias, Epilogue::Residual, Epilogue::Gate(Activation::Gelu)] {
            for rows in [1, 63, 64, 65] {
                let shape = GemmShape::new(3 * WIDTH_STEP, WIDTH_STEP, epilogue);
                check_gemm(&gpu, shape, rows, variant, storage, &mut random);
            }
        }
    }
    if variants.is_empty() {
        let reason = format!("{} has no cooperative matrices of 8x8x8 that sum in f32", gpu.description());
        testdata::skip(testdata::Cause::NoSystemFeature, &reason);
    }
}

fn check_gemm(
    gpu: &OpenDevice,
    shape: GemmShape,
    rows: usize,
    variant: GemmVariant,
    storage: Storage,
    random: &mut Random,
) -> Vec<f32> {
    let GemmShape { k, n, epilogue, .. } = shape;
    let padded = rows.next_multiple_of(64);
    // Asymmetric on purpose: a transposed operand must not pass.
    let a = rounded(storage, &random.numbers(padded * k));
    let w = rounded(storage, &random.numbers(k * n).iter().map(|x| x * 0.1).collect::<Vec<_>>());
    let bias = random.numbers(n);
    let residual = rounded(storage, &random.numbers(padded * n));
    let op = Gemm::new(shape, variant, storage);
    let y = poisoned(gpu, storage, (padded + SPARE_ROWS) * shape.stride);
    let (w_buffer, bias_buffer) = (stored(gpu, storage, &w), plain(gpu, &bias));
    let (a_buffer, residual_buffer) = (stored(gpu, storage, &a), stored(gpu, storage, &residual));
    let buffers = GemmBuffers {
        a: whole(&a_buffer),
        w: whole(&w_buffer),
        bias: whole(&bias_buffer),
        residual: whole(&residual_buffer),
        y: whole(&y),
        w_next: from(&w_buffer, op.second_row()),
    };
    dispatch(gpu, &op, buffers, &Extent { rows: rows as u32, ..Extent::default() });

    let transposed: Vec<f32> = (0..n).flat_map(|column| w[column..].iter().step_by(n).copied()).collect();
    let linear = Linear { weight: transposed.into(), bias: Some(bias), inputs: k };
    let sums = reference::linear(&widen(&a[..rows * k]), &linear);
    let expected: Vec<f64> = match epilogue {
        Epilogue::Bias => sums,
        Epilogue::Residual => sums.iter().zip(&residual).map(|(sum, &residual)| sum + f64::from(residual)).collect(),
        Epilogue::Activation(activation) => sums.iter().map(|&sum| reference::activate(activation, sum)).collect(),
        Epilogue::Gate(activation) => sums
            .chunks_exact(n)
            .flat_map(|row| (0..n / 2).map(|output| pair_columns(output).map(|column| row[column])))
            .map(|[x, gate]| reference::activate(activation, x) * gate)
            .collect(),
    };
    let what = format!("gemm {rows}x{k}x{n} {epilogue:?} {variant:?} {storage:?}");
    let written = if matches!(epilogue, Epilogue::Gate(_)) { rows } else { padded };
    check_output(gpu, &what, storage, &y, &expected, written * shape.stride, 2e-5, 4e-3)
}

#[test]
fn gemm_with_residual_and_layer_norm_matches_float64() {
    let Some(gpu) = device() else { return };
    let mut random = Random(12);
    for (storage, hidden, k) in STORAGES.into_iter().flat_map(|s| [(s, 48, 128), (s, 384, 256)]) {
        let states = RowLayout::padded(hidden, storage);
        let n = states.stride;
        let op = GemmNorm { states, k, inputs: k, eps: EPS };
        for rows in [1usize, 15, 16, 17, 63, 64, 65] {
            let padded = rows.next_multiple_of(64);
            let a = rounded(storage, &random.numbers(padded * k));
            // As loaded: columns past the hidden size are zero.
            let real = |values: Vec<f32>| -> Vec<f32> {
                values.iter().enumerate().map(|(i, &x)| if i % n < hidden { x } else { 0.0 }).collect()
            };
            let w = real(rounded(storage, &random.numbers(k * n).iter().map(|x| x * 0.1).collect::<Vec<_>>()));
            let bias = random.numbers(hidden);
            let residual = real(rounded(storage, &random.numbers(padded * n)));
            let norm = NormWeights { weight: random.numbers(hidden), bias: Some(random.numbers(hidden)) };
            let y = poisoned(&gpu, storage, (padded + SPARE_ROWS) * n);
            let params = plain(&gpu, &params(n, [&bias, &norm.weight, norm.bias.as_ref().unwrap()]));
            let [a_buffer, w_buffer, residual_buffer] = [&a, &w, &residual].map(|values| stored(&gpu, storage, values));
            let buffers = GemmNormBuffers {
                a: whole(&a_buffer),
                w: whole(&w_buffer),
                params: whole(&params),
                residual: whole(&residual_buffer),
                y: whole(&y),
                w_next: from(&w_buffer, op.second_row()),
            };
            dispatch(&gpu, &op, buffers, &Extent { rows: rows as u32, ..Extent::default() });
            let weight: Vec<f32> = (0..hidden).flat_map(|column| w[column..].iter().step_by(n).copied()).collect();
            let linear = Linear { weight: weight.into(), bias: Some(bias), inputs: k };
            let sums = reference::linear(&widen(&a[..rows * k]), &linear);
            let mut expected = Vec::new();
            for (row, sum) in sums.chunks_exact(hidden).enumerate() {
                let added = &residual[row * n..row * n + hidden];
                let mut state: Vec<f64> = sum.iter().zip(added).map(|(s, &r)| s + f64::from(r)).collect();
                reference::layer_norm(&mut state, &norm, EPS);
                state.resize(n, 0.0);
                expected.extend(state);
            }
            let what = format!("gemm_norm {rows}x{k}x{hidden} {storage:?}");
            check_output(&gpu, &what, storage, &y, &expected, padded * n, 2e-5, 4e-3);
        }
    }
}

#[test]
fn attention_matches_float64_for_every_head_width() {
    let Some(gpu) = device() else { return };
    let mut random = Random(3);
    for storage in STORAGES {
        for family in FAMILIES {
            for (heads, head_dim) in [(3, 16), (2, 32), (2, 48), (1, 64), (1, 96), (2, 128)] {
                let threads: &[u32] = match (family, head_dim) {
                    (KernelFamily::Software, _) => &[8],
                    (KernelFamily::Gpu, 32) => &[32, 64, 128],
                    (KernelFamily::Gpu, _) => &[64],
                };
                for &threads in threads {
                    let lengths = [1, 15, 16, 17, 64, 65];
                    check_attention(
                        &gpu,
                        (heads, head_dim, threads),
                        &lengths,
                        Mask::All,
                        storage,
                        family,
                        &mut random,
                    );
                }
            }
        }
    }
}

#[test]
fn attention_matches_float64_at_the_longest_rows() {
    let Some(gpu) = device() else { return };
    let mut random = Random(4);
    for storage in STORAGES {
        for family in FAMILIES {
            let lengths = [63, 511, 512];
            check_attention(&gpu, (12, 32, 64), &lengths, Mask::All, storage, family, &mut random);
        }
    }
}

#[test]
fn attention_within_a_window_matches_float64() {
    let Some(gpu) = device() else { return };
    for (storage, family) in STORAGES.into_iter().flat_map(|s| FAMILIES.map(|f| (s, f))) {
        // Tuning chooses among these by the size of a batch.
        let tiles: &[u32] = match family {
            KernelFamily::Software => &[8, 16],
            KernelFamily::Gpu => &[32, 64, 128],
        };
        let mut of_tiles = SameNumbers::default();
        for (&threads, radius) in tiles.iter().flat_map(|threads| [0, 5, 8, 64].map(|radius| (threads, radius))) {
            let mask = Mask::Window { radius };
            let lengths = [1, 2, 8, 9, 64, 65, 66, 129, 130, 513];
            let numbers = check_attention(&gpu, (2, 32, threads), &lengths, mask, storage, family, &mut Random(14));
            of_tiles.check(radius, &format!("t{threads} {mask:?} {storage:?} {family:?}"), &numbers);
        }
    }
}

#[test]
fn queries_and_keys_turned_by_rotary_positions_match_float64_and_values_stay() {
    let Some(gpu) = device() else { return };
    let mut random = Random(15);
    for storage in STORAGES {
        for (heads, head_dim) in [(3, 16), (2, 64), (1, 8), (2, 96)] {
            let layout = layout(heads, head_dim, storage);
            let cooperative = GemmVariant::cooperative(gpu.description(), storage, false);
            let others = [GemmVariant::Tile(Tile::wide(32)), GemmVariant::Software { threads: 32 }];
            for variant in others.into_iter().chain(cooperative) {
                // Of every token, and of the last layer, whose queries are those of first tokens.
                for parts in [0..3, 1..3] {
                    check_rotary(&gpu, &layout, parts, variant, &mut random);
                }
            }
        }
    }
}

/// `parts` are of queries, keys and values.
fn check_rotary(
    gpu: &OpenDevice,
    layout: &Layout,
    parts: std::ops::Range<usize>,
    variant: GemmVariant,
    random: &mut Random,
) {
    let &Layout { heads, head_dim, storage, .. } = layout;
    let (k, part, rotary) = (WIDTH_STEP, layout.states.stride, Rotary::of_theta(10_000.0));
    let (n, rows) = (3 * part, 17);
    let shape = GemmShape {
        first_column: parts.start * part,
        columns: parts.len() * part,
        ..GemmShape::new(k, n, Epilogue::Bias)
    };
    // As loaded: padding is zero.
    let real = |values: Vec<f32>| -> Vec<f32> {
        values.iter().enumerate().map(|(i, x)| if i % part < heads * head_dim { 0.1 * x } else { 0.0 }).collect()
    };
    let a = rounded(storage, &random.numbers(WIDTH_STEP * k));
    let (w, bias) = (rounded(storage, &real(random.numbers(k * n))), real(random.numbers(n)));
    let places: Vec<usize> = [0, 1, 2, 511, 8_191].into_iter().cycle().take(rows).collect();
    let tokens: Vec<Token> = places.iter().map(|&place| Token::new(7, place, 1)).collect();
    let tokens = gpu.buffer_with("tokens", bytemuck::cast_slice(&tokens), BufferUsages::STORAGE).unwrap();
    let table = plain(gpu, &gemm_rotary::table(rotary, 8_192, head_dim));
    let [a_buffer, w_buffer] = [&a, &w].map(|values| stored(gpu, storage, values));
    let (bias_buffer, y) = (plain(gpu, &bias), poisoned(gpu, storage, (rows + SPARE_ROWS) * n));
    let gemm = Gemm::new(shape, variant, storage);
    let buffers = GemmRotaryBuffers {
        a: whole(&a_buffer),
        w: whole(&w_buffer),
        bias: whole(&bias_buffer),
        tokens: whole(&tokens),
        y: whole(&y),
        w_next: from(&w_buffer, gemm.second_row()),
        table: whole(&table),
    };
    let extent = Extent { rows: rows as u32, ..Extent::default() };
    dispatch(gpu, &GemmRotary::new(gemm, layout), buffers, &extent);

    let weight: Vec<f32> = (0..n).flat_map(|column| w[column..].iter().step_by(n).copied()).collect();
    let linear = Linear { weight: weight.into(), bias: Some(bias), inputs: k };
    let mut expected = reference::linear(&widen(&a[..rows * k]), &linear);
    for (token, &place) in expected.chunks_exact_mut(n).zip(&places) {
        token[..parts.start * part].fill(f64::from(POISON));
        for queries_or_keys in token[parts.start * part..2 * part].chunks_exact_mut(part) {
            for head in queries_or_keys[..heads * head_dim].chunks_exact_mut(head_dim) {
                // The reference rotates rows from their first token on, and has pairs half a head apart.
                let mut row = vec![0.0; place * head_dim];
                row.extend((0..head_dim / 2).map(|pair| head[pair_columns(pair)[0]]));
                row.extend((0..head_dim / 2).map(|pair| head[pair_columns(pair)[1]]));
                reference::rotate(&mut row, 1, head_dim, rotary);
                for (dim, value) in row[place * head_dim..].iter().enumerate() {
                    head[pair_columns(dim % (head_dim / 2))[dim / (head_dim / 2)]] = *value;
                }
            }
        }
    }
    let what = format!("rotary {heads}x{head_dim} {parts:?} {variant:?} {storage:?}");
    check_output(gpu, &what, storage, &y, &expected, rows * n, 2e-5, 4e-3);
}

fn check_attention(
    gpu: &OpenDevice,
    (heads, head_dim, threads): (usize, usize, u32),
    lengths: &[u32],
    mask: Mask,
    storage: Storage,
    family: KernelFamily,
    random: &mut Random,
) -> Vec<f32> {
    let hidden = heads * head_dim;
    let padded = hidden.next_multiple_of(WIDTH_STEP);
    let radius = match mask {
        Mask::Window { radius } => Some(radius),
        _ => None,
    };
    let shape = AttentionShape { radius, ..AttentionShape::all(&layout(heads, head_dim, storage)) };
    let op = Attention { shape, threads, storage, family };
    let tokens: u32 = lengths.iter().sum();
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    let qkv =
        rounded(storage, &random.numbers(tokens as usize * 3 * padded).iter().map(|x| 3.0 * x).collect::<Vec<_>>());
    let mut list = Vec::new();
    query_tiles(&offsets, threads, &mut list);
    let context = poisoned(gpu, storage, (tokens as usize + SPARE_ROWS) * padded);
    let qkv_buffer = stored(gpu, storage, &qkv);
    let list_buffer = gpu.buffer_with("tiles", bytemuck::cast_slice(&list), BufferUsages::STORAGE).unwrap();
    let buffers = AttentionBuffers {
        q: whole(&qkv_buffer),
        kv: whole(&qkv_buffer),
        query_tiles: whole(&list_buffer),
        context: whole(&context),
    };
    dispatch(gpu, &op, buffers, &Extent { rows: tokens, query_tiles: list.len() as u32, query_keys: 0 });

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
        let row_context = reference::attention(&query, &key, &value, &Heads::of_heads(heads, hidden / heads), mask);
        for (index, values) in row_context.chunks_exact(hidden).enumerate() {
            let start = (row[0] as usize + index) * padded;
            expected[start..start + hidden].copy_from_slice(values);
        }
    }
    let what = format!("attention {heads}x{head_dim} t{threads} {mask:?} {storage:?} {family:?}");
    check_output(gpu, &what, storage, &context, &expected, expected.len(), 2e-5, 4e-3)
}

#[test]
fn attention_of_first_tokens_reads_the_keys_of_their_own_rows() {
    let Some(gpu) = device() else { return };
    for (storage, family) in STORAGES.into_iter().flat_map(|s| FAMILIES.map(|f| (s, f))) {
        let mut random = Random(5);
        let shape = AttentionShape::first_tokens(&layout(2, 32, storage));
        let op = Attention { shape, threads: 8, storage, family };
        let rows = [
            QueryTile { query_start: 0, queries: 1, key_start: 0, keys: 5 },
            QueryTile { query_start: 1, queries: 1, key_start: 5, keys: 1 },
            QueryTile { query_start: 2, queries: 1, key_start: 6, keys: 20 },
        ];
        let q = rounded(storage, &random.numbers(3 * 128));
        let kv = rounded(storage, &random.numbers(26 * 384));
        let context = poisoned(&gpu, storage, (3 + SPARE_ROWS) * 128);
        let list = gpu.buffer_with("rows", bytemuck::cast_slice(&rows), BufferUsages::STORAGE).unwrap();
        let (q_buffer, kv_buffer) = (stored(&gpu, storage, &q), stored(&gpu, storage, &kv));
        let buffers = AttentionBuffers {
            q: whole(&q_buffer),
            kv: whole(&kv_buffer),
            query_tiles: whole(&list),
            context: whole(&context),
        };
        dispatch(&gpu, &op, buffers, &Extent { rows: 3, query_tiles: 3, query_keys: 26 });
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
        let what = format!("first tokens {storage:?} {family:?}");
        check_output(&gpu, &what, storage, &context, &expected, expected.len(), 1e-5, 2e-3);
    }
}

#[test]
fn layer_norm_matches_float64_and_leaves_the_padding() {
    let Some(gpu) = device() else { return };
    let mut random = Random(6);
    for (storage, family) in STORAGES.into_iter().flat_map(|s| FAMILIES.map(|f| (s, f))) {
        for hidden in [48, 128, 384, 1024] {
            let states = RowLayout::padded(hidden, storage);
            let op = LayerNorm { rows: states, eps: EPS, family };
            for rows in if hidden == 384 { &ROWS[..] } else { &[1, 5, 9] } {
                // Far from zero on purpose: a one-pass variance would cancel.
                let x: Vec<f32> = random.numbers(rows * states.stride).iter().map(|x| x + 4.0).collect();
                let x = rounded(storage, &x);
                let norm = NormWeights { weight: random.numbers(hidden), bias: Some(random.numbers(hidden)) };
                let y = poisoned(&gpu, storage, (rows + SPARE_ROWS) * states.stride);
                let norm_buffer = plain(&gpu, &params(states.stride, [&norm.weight, norm.bias.as_ref().unwrap()]));
                let x_buffer = stored(&gpu, storage, &x);
                let buffers = LayerNormBuffers { x: whole(&x_buffer), norm: whole(&norm_buffer), y: whole(&y) };
                dispatch(&gpu, &op, buffers, &Extent { rows: *rows as u32, ..Extent::default() });
                let mut expected = Vec::new();
                for row in x.chunks_exact(states.stride) {
                    let mut state = widen(&row[..hidden]);
                    reference::layer_norm(&mut state, &norm, EPS);
                    state.resize(states.stride, f64::from(POISON));
                    expected.extend(state);
                }
                let what = format!("layer_norm {rows}x{hidden} {storage:?} {family:?}");
                check_output(&gpu, &what, storage, &y, &expected, expected.len(), 2e-5, 4e-3);
            }
        }
    }
}

#[test]
fn embed_sums_the_three_tables_and_normalises() {
    let Some(gpu) = device() else { return };
    let mut random = Random(7);
    for (storage, family) in STORAGES.into_iter().flat_map(|s| FAMILIES.map(|f| (s, f))) {
        for (rows, hidden) in [(1, 384), (9, 48), (65, 384)] {
            let states = RowLayout::padded(hidden, storage);
            let op = Embed { rows: states, eps: EPS, positioned: true, family };
            let [word, position] = [100, 70].map(|n| rounded(storage, &random.numbers(n * hidden)));
            let token_type = rounded(storage, &random.numbers(2 * hidden));
            let norm = NormWeights { weight: random.numbers(hidden), bias: Some(random.numbers(hidden)) };
            let tokens: Vec<(usize, usize, usize)> = (0..rows).map(|i| (random.below(100), i, i % 3 % 2)).collect();
            let upload: Vec<Token> = tokens.iter().map(|&(id, at, t)| Token::new(id as u32, at, t)).collect();
            let tokens_buffer =
                gpu.buffer_with("tokens", bytemuck::cast_slice(&upload), BufferUsages::STORAGE).unwrap();
            let y = poisoned(&gpu, storage, (rows + SPARE_ROWS) * states.stride);
            let norm_buffer = plain(&gpu, &params(states.stride, [&norm.weight, norm.bias.as_ref().unwrap()]));
            let tables = [&word, &position, &token_type].map(|table| stored(&gpu, storage, table));
            let buffers = EmbedBuffers {
                tokens: whole(&tokens_buffer),
                word: whole(&tables[0]),
                position: whole(&tables[1]),
                token_type: whole(&tables[2]),
                norm: whole(&norm_buffer),
                y: whole(&y),
            };
            dispatch(&gpu, &op, buffers, &Extent { rows: rows as u32, ..Extent::default() });
            let mut expected = Vec::new();
            for (id, at, t) in tokens {
                let sum = |c: usize| word[id * hidden + c] + position[at * hidden + c] + token_type[t * hidden + c];
                let mut state: Vec<f64> = (0..hidden).map(|c| f64::from(sum(c))).collect();
                reference::layer_norm(&mut state, &norm, EPS);
                state.resize(states.stride, f64::from(POISON));
                expected.extend(state);
            }
            let what = format!("embed {rows}x{hidden} {storage:?} {family:?}");
            check_output(&gpu, &what, storage, &y, &expected, expected.len(), 2e-5, 4e-3);
        }
    }
}

#[test]
fn gather_copies_first_tokens() {
    let Some(gpu) = device() else { return };
    for storage in STORAGES {
        let op = Gather { states: RowLayout::padded(48, storage) };
        let x = rounded(storage, &Random(8).numbers(30 * 128));
        let starts = [0, 7, 8, 29];
        let y = poisoned(&gpu, storage, (starts.len() + SPARE_ROWS) * 128);
        let list = row_list(&gpu, &starts, 30);
        let x_buffer = stored(&gpu, storage, &x);
        let buffers = GatherBuffers { rows: whole(&list), x: whole(&x_buffer), y: whole(&y) };
        dispatch(&gpu, &op, buffers, &Extent { rows: 4, ..Extent::default() });
        let expected: Vec<f64> =
            starts.iter().flat_map(|&s| widen(&x[s as usize * 128..(s as usize + 1) * 128])).collect();
        check_output(&gpu, "gather", storage, &y, &expected, expected.len(), 0.0, 0.0);
    }
}

#[test]
fn the_classifier_matches_float64() {
    let Some(gpu) = device() else { return };
    let mut random = Random(9);
    for storage in STORAGES {
        for (rows, hidden, outputs) in [(1, 384, 1), (65, 48, 3), (63, 384, 2)] {
            let states = RowLayout::padded(hidden, storage);
            let op = Classify { states, outputs: outputs as u32 };
            let x = rounded(storage, &random.numbers(rows * states.stride));
            let linear = Linear {
                weight: random.numbers(outputs * hidden).into(),
                bias: Some(random.numbers(outputs)),
                inputs: hidden,
            };
            let y = poisoned(&gpu, Storage::F32, (rows + SPARE_ROWS) * outputs);
            let (weight, bias) = (plain(&gpu, &linear.weight.all()), plain(&gpu, linear.bias.as_ref().unwrap()));
            let x_buffer = stored(&gpu, storage, &x);
            let buffers = ClassifyBuffers { x: whole(&x_buffer), w: whole(&weight), bias: whole(&bias), y: whole(&y) };
            dispatch(&gpu, &op, buffers, &Extent { rows: rows as u32, ..Extent::default() });
            let rows: Vec<f64> = x.chunks_exact(states.stride).flat_map(|row| widen(&row[..hidden])).collect();
            let expected = reference::linear(&rows, &linear);
            check_output(&gpu, "classify", Storage::F32, &y, &expected, expected.len(), 2e-5, 2e-5);
        }
    }
}

#[test]
fn pooling_gives_unit_means() {
    let Some(gpu) = device() else { return };
    for storage in STORAGES {
        let states = RowLayout::padded(48, storage);
        let x = rounded(storage, &Random(10).numbers(30 * 128));
        let starts = [0, 7, 8];
        let list = row_list(&gpu, &starts, 30);
        let mean = poisoned(&gpu, storage, (3 + SPARE_ROWS) * 128);
        let y = poisoned(&gpu, Storage::F32, (3 + SPARE_ROWS) * 48);
        let extent = Extent { rows: 3, ..Extent::default() };
        let x_buffer = stored(&gpu, storage, &x);
        let buffers = PoolMeanBuffers { rows: whole(&list), x: whole(&x_buffer), mean: whole(&mean) };
        dispatch(&gpu, &PoolMean { states }, buffers, &extent);
        let buffers = PoolNormaliseBuffers { mean: whole(&mean), y: whole(&y) };
        dispatch(&gpu, &PoolNormalise { states }, buffers, &extent);
        let mut expected = Vec::new();
        for (start, end) in [(0, 7), (7, 8), (8, 30)] {
            let states: Vec<f64> =
                x[start * 128..end * 128].chunks_exact(128).flat_map(|row| widen(&row[..48])).collect();
            expected.extend(reference::unit(reference::pool(Pooling::Mean, &states, 48)));
        }
        // The mean in between is stored as states are.
        let tolerance = if storage == Storage::F16 { 1e-3 } else { 1e-6 };
        check_output(&gpu, "pool", Storage::F32, &y, &expected, expected.len(), tolerance, tolerance);
    }
}

/// That variants among which tuning chooses by the size of a batch give the same bits: a row's score must not depend on
/// its company.
#[derive(Default)]
struct SameNumbers(BTreeMap<usize, (String, Vec<f32>)>);

impl SameNumbers {
    /// Compares `numbers` with those that the first variant gave for the same `size`.
    fn check(&mut self, size: usize, variant: &str, numbers: &[f32]) {
        let (first, expected) = self.0.entry(size).or_insert_with(|| (variant.to_owned(), numbers.to_vec()));
        let differs = numbers.iter().zip(&*expected).position(|(x, y)| x.to_bits() != y.to_bits());
        assert_eq!(differs, None, "first number in which {variant} differs from {first}, size {size}");
    }
}

fn layout(heads: usize, head_dim: usize, storage: Storage) -> Layout {
    let states = RowLayout::padded(heads * head_dim, storage);
    Layout {
        states,
        embeddings: states,
        intermediate: WIDTH_STEP,
        mlp: MlpKind::Plain,
        norm_placement: NormPlacement::After,
        heads,
        head_dim,
        storage,
        word_table: WordTable::OnDevice,
    }
}

/// Vectors as a kernel takes them: each padded with zeros to `stride`, one after the other.
fn params<const N: usize>(stride: usize, vectors: [&Vec<f32>; N]) -> Vec<f32> {
    let padded = |vector: &Vec<f32>| vector.iter().copied().chain(std::iter::repeat(0.0)).take(stride).collect();
    vectors.map(|vector| -> Vec<f32> { padded(vector) }).concat()
}

/// Runs one dispatch of an op. Each test makes its buffers for the extent that it passes here, with rows to spare.
fn dispatch<'a, B>(gpu: &OpenDevice, op: &impl Op, buffers: B, extent: &Extent)
where
    B: Buffers<BufferBinding<'a>>,
{
    let pipeline = gpu.pipeline(&op.pipeline()).unwrap();
    let group = gpu.bind(&pipeline, buffers);
    // SAFETY: as above; the poison past each output is looked at after the run.
    unsafe { gpu.dispatch(&pipeline, &group, &op.work(extent)) }.unwrap();
}

fn whole(buffer: &wgpu::Buffer) -> BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

fn from(buffer: &wgpu::Buffer, offset: u64) -> BufferBinding<'_> {
    BufferBinding { offset, ..whole(buffer) }
}

fn row_list(gpu: &OpenDevice, starts: &[u32], end: u32) -> wgpu::Buffer {
    let ends = starts[1..].iter().copied().chain([end]);
    let rows: Vec<QueryTile> = (0..)
        .zip(starts.iter().zip(ends))
        .map(|(index, (&start, end))| QueryTile { query_start: index, queries: 1, key_start: start, keys: end - start })
        .collect();
    gpu.buffer_with("rows", bytemuck::cast_slice(&rows), BufferUsages::STORAGE).unwrap()
}

fn rounded(storage: Storage, values: &[f32]) -> Vec<f32> {
    decode(storage, &storage.encode(values))
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn stored(gpu: &OpenDevice, storage: Storage, values: &[f32]) -> wgpu::Buffer {
    gpu.buffer_with("stored", &storage.encode(values), BufferUsages::STORAGE).unwrap()
}

fn plain(gpu: &OpenDevice, values: &[f32]) -> wgpu::Buffer {
    stored(gpu, Storage::F32, values)
}

fn poisoned(gpu: &OpenDevice, storage: Storage, numbers: usize) -> wgpu::Buffer {
    let bytes = storage.encode(&vec![POISON; numbers]);
    gpu.buffer_with("output", &bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC).unwrap()
}

/// Compares the first numbers with `expected`, and what lies at `untouched_from` and after with the poison. Returns the
/// first numbers.
#[allow(clippy::too_many_arguments, reason = "a check names all that it compares")]
fn check_output(
    gpu: &OpenDevice,
    what: &str,
    storage: Storage,
    buffer: &wgpu::Buffer,
    expected: &[f64],
    untouched_from: usize,
    f32_tolerance: f64,
    f16_tolerance: f64,
) -> Vec<f32> {
    let mut actual = decode(storage, &gpu.read(buffer).unwrap());
    let poison = rounded(storage, &[POISON])[0];
    let expected: Vec<f64> =
        expected.iter().map(|&x| if x == f64::from(POISON) { f64::from(poison) } else { x }).collect();
    let largest = expected.iter().filter(|&&x| x != f64::from(poison)).fold(1.0f64, |a, b| a.max(b.abs()));
    let tolerance = match storage {
        Storage::F32 => f32_tolerance,
        Storage::F16 => f16_tolerance,
    };
    assert_close(what, &actual[..expected.len()], &expected, tolerance * largest);
    for (index, &value) in actual[untouched_from..].iter().enumerate() {
        // The buffer itself is padded to 16 bytes with zeros.
        let padding = untouched_from + index >= buffer.size() as usize / storage.bytes() - 8 && value == 0.0;
        assert!(value == poison || padding, "{what}: wrote {value} at {}", untouched_from + index);
    }
    actual.truncate(expected.len());
    actual
}
