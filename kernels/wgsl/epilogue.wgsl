// Transforms and stores a GEMM's sums. Prefixed to every GEMM kernel except `gemm_tile_norm.wgsl`, which stores
// normalised rows, and those with the epilogue of `epilogue_gate.wgsl`.
//
//   BIAS      y = sum + bias             (the bias is what the sum starts from)
//   RESIDUAL  y = sum + bias + residual
//   others    y = activation(sum + bias)  by `activations.wgsl`, which is prefixed to this file
//
// Bindings: 2 bias, 3 residual (read only where EPILOGUE is RESIDUAL; laid out as y), 4 y. Constants: EPILOGUE, fixed
// when the pipeline is made, so the choice costs nothing at run time. Rust caller: `gpu::ops::gemm`.

struct Sizes {
    /// First column to compute, in units of four: a slice of w, bias and y.
    column4: u32,
    /// Row stride of y and residual, in units of four.
    y_stride4: u32,
}

@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> residual: array<Packed4>;
@group(0) @binding(4) var<storage, read_write> y: array<Packed4>;
var<immediate> sizes: Sizes;

const EPILOGUE_RESIDUAL: u32 = 2u;
/// 0 is bias alone, others are those of `activations.wgsl`.
override EPILOGUE: u32 = 0u;

/// Stores four columns of a row, whose sums hold the bias.
fn store(row: u32, column4: u32, sum: vec4<f32>) {
    let index = row * sizes.y_stride4 + column4;
    var added = vec4(0.0);
    if EPILOGUE == EPILOGUE_RESIDUAL {
        added = unpack4(residual[index]);
    }
    y[index] = pack4(epilogue(sum, added));
}

fn epilogue(sum: vec4<f32>, residual: vec4<f32>) -> vec4<f32> {
    if EPILOGUE == EPILOGUE_RESIDUAL {
        return sum + residual;
    }
    return activate(EPILOGUE, sum);
}
