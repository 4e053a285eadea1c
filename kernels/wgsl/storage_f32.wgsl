// Storage in f32: how four numbers, or one 16-byte run of numbers, lie in a buffer.
//
// Prefixed to every kernel that names `Packed4` or `Run`. The alternative, `storage_f16.wgsl`, has the same names, so
// each kernel is written once. Arithmetic is f32 in both. Rust caller: `gpu::shader::source`.

/// Four consecutive numbers of a row.
alias Packed4 = vec4<f32>;
/// Two consecutive numbers of a row.
alias Packed2 = vec2<f32>;
/// One 16-byte load: `RUN` consecutive numbers of a row.
alias Run = vec4<f32>;
/// Numbers in a `Run`.
const RUN: u32 = 4u;
/// `Packed4`s in a `Run`.
const RUN4: u32 = 1u;

fn unpack4(packed: Packed4) -> vec4<f32> {
    return packed;
}

fn pack4(values: vec4<f32>) -> Packed4 {
    return values;
}

fn pack2(values: vec2<f32>) -> Packed2 {
    return values;
}

/// Numbers `4 * part` to `4 * part + 3` of a run; `part` is below `RUN4`.
fn run_part(run: Run, part: u32) -> vec4<f32> {
    return run;
}

/// `sum + a · b`: one row of A times `RUN` rows of B, four columns wide.
fn multiply_run(sum: vec4<f32>, a: Run, b: array<Packed4, RUN>) -> vec4<f32> {
    return sum + a.x * b[0] + a.y * b[1] + a.z * b[2] + a.w * b[3];
}

/// `sum + a · b` over the numbers of a run.
fn dot_run(sum: f32, a: Run, b: Run) -> f32 {
    return sum + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}
