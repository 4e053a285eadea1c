// Transforms and stores a GEMM's sums. Prefixed to every GEMM kernel except `gemm_tile_norm.wgsl`, which stores
// normalised rows.
//
//   BIAS      y = sum + bias             (the bias is what the sum starts from)
//   GELU      y = gelu(sum + bias)       gelu(x) = x · (1 + erf(x / √2)) / 2, the exact one
//   RESIDUAL  y = sum + bias + residual
//   TANH      y = tanh(sum + bias)
//   RELU      y = max(sum + bias, 0)
//   GELU_TANH y = gelu(sum + bias) by its approximation x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2
//   SILU      y = x / (1 + e⁻ˣ) of x = sum + bias
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

const EPILOGUE_GELU: u32 = 1u;
const EPILOGUE_RESIDUAL: u32 = 2u;
const EPILOGUE_TANH: u32 = 3u;
const EPILOGUE_RELU: u32 = 4u;
const EPILOGUE_GELU_TANH: u32 = 5u;
const EPILOGUE_SILU: u32 = 6u;
/// 0 is bias alone.
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
    if EPILOGUE == EPILOGUE_GELU {
        return gelu(sum);
    }
    if EPILOGUE == EPILOGUE_RESIDUAL {
        return sum + residual;
    }
    if EPILOGUE == EPILOGUE_TANH {
        return tanh_clamped(sum);
    }
    if EPILOGUE == EPILOGUE_RELU {
        return max(sum, vec4(0.0));
    }
    if EPILOGUE == EPILOGUE_GELU_TANH {
        return gelu_tanh(sum);
    }
    if EPILOGUE == EPILOGUE_SILU {
        return silu(sum);
    }
    return sum;
}

/// The exact GELU as `max(x, 0) − |x| · erfc(|x| / √2) / 2`, with `erfc(t / √2) = exp2(−t · Q(t))` and Q a polynomial
/// fitted on [0, 6]; beyond 6, erfc is below 2e-9. Largest error 4.1e-8 absolute, and 2e-5 relative on the negative
/// side. It has one branch where erf has two, and no cancellation in the tail.
fn gelu(x: vec4<f32>) -> vec4<f32> {
    let t = min(abs(x), vec4(6.0));
    var q = vec4(-1.285757633695539e-7);
    q = q * t + 3.2642574296914972e-6;
    q = q * t - 3.245520201744512e-5;
    q = q * t + 1.312500098720193e-4;
    q = q * t + 3.028336213901639e-4;
    q = q * t - 7.315366994589567e-3;
    q = q * t + 5.269450321793556e-2;
    q = q * t + 0.45913371443748474;
    q = q * t + 1.1511152982711792;
    return max(x, vec4(0.0)) - 0.5 * abs(x) * exp2(-t * q);
}

/// The approximation by tanh: √(2/π) and 0.044715 · √(2/π) as constants.
fn gelu_tanh(x: vec4<f32>) -> vec4<f32> {
    let inner = x * (0.7978845608028654 + 0.035677408136300125 * x * x);
    return 0.5 * x * (1.0 + tanh_clamped(inner));
}

/// By exp2. Below −80 the result is 0 to the last bit; the clamp keeps exp2 finite.
fn silu(x: vec4<f32>) -> vec4<f32> {
    return x / (1.0 + exp2(-1.4426950408889634 * max(x, vec4(-80.0))));
}

/// tanh by exp2: Metal's own is NaN beyond about ±45. At ±15 tanh is already ±1 to the last bit.
fn tanh_clamped(x: vec4<f32>) -> vec4<f32> {
    let t = clamp(x, vec4(-15.0), vec4(15.0));
    return 1.0 - 2.0 / (exp2(2.885390081777927 * t) + 1.0);
}
