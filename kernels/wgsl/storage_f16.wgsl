// Storage in f16: how four numbers, or one 16-byte run of numbers, lie in a buffer.
//
// Prefixed to every kernel that names `Packed4` or `Run`. The alternative, `storage_f32.wgsl`, has the same names, so
// each kernel is written once. Arithmetic is f32 in both: halves are widened when used, which is free in Apple's and
// AMD's multiply-adds. A u32 holds two halves, so no adapter needs SHADER_F16 for this. Rust caller:
// `gpu::shader::source`.

/// Four consecutive numbers of a row.
alias Packed4 = vec2<u32>;
/// Two consecutive numbers of a row.
alias Packed2 = u32;
/// One 16-byte load: `RUN` consecutive numbers of a row.
alias Run = vec4<u32>;
/// Numbers in a `Run`.
const RUN: u32 = 8u;
/// `Packed4`s in a `Run`.
const RUN4: u32 = 2u;

fn unpack4(packed: Packed4) -> vec4<f32> {
    return vec4(unpack2x16float(packed.x), unpack2x16float(packed.y));
}

/// Clamps values to the largest half: an infinity would not stay in its row.
fn pack4(values: vec4<f32>) -> Packed4 {
    let clamped = clamp(values, vec4(-65504.0), vec4(65504.0));
    return vec2(pack2x16float(clamped.xy), pack2x16float(clamped.zw));
}

/// Clamps values as `pack4` does.
fn pack2(values: vec2<f32>) -> Packed2 {
    return pack2x16float(clamp(values, vec2(-65504.0), vec2(65504.0)));
}

/// Numbers `4 * part` to `4 * part + 3` of a run; `part` is below `RUN4`.
fn run_part(run: Run, part: u32) -> vec4<f32> {
    return select(unpack4(run.zw), unpack4(run.xy), part == 0u);
}

/// `sum + a · b`: one row of A times `RUN` rows of B, four columns wide.
fn multiply_run(sum: vec4<f32>, a: Run, b: array<Packed4, RUN>) -> vec4<f32> {
    let low = unpack4(a.xy);
    let high = unpack4(a.zw);
    let half = sum + low.x * unpack4(b[0]) + low.y * unpack4(b[1]) + low.z * unpack4(b[2]) + low.w * unpack4(b[3]);
    return half + high.x * unpack4(b[4]) + high.y * unpack4(b[5]) + high.z * unpack4(b[6]) + high.w * unpack4(b[7]);
}

/// `sum + a · b` over the numbers of a run.
fn dot_run(sum: f32, a: Run, b: Run) -> f32 {
    let a0 = unpack4(a.xy);
    let b0 = unpack4(b.xy);
    let a1 = unpack4(a.zw);
    let b1 = unpack4(b.zw);
    let half = sum + a0.x * b0.x + a0.y * b0.y + a0.z * b0.z + a0.w * b0.w;
    return half + a1.x * b1.x + a1.y * b1.y + a1.z * b1.z + a1.w * b1.w;
}
