// Activations of single numbers. Prefixed to `epilogue.wgsl` and to `epilogue_gate.wgsl`.
//
//   GELU      x · (1 + erf(x / √2)) / 2, the exact one
//   TANH      tanh(x)
//   RELU      max(x, 0)
//   GELU_TANH x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2
//   SILU      x / (1 + e⁻ˣ)
//
// Rust: `gpu::ops::gemm::activation_number`.

const ACTIVATION_GELU: u32 = 1u;
const ACTIVATION_TANH: u32 = 3u;
const ACTIVATION_RELU: u32 = 4u;
const ACTIVATION_GELU_TANH: u32 = 5u;
const ACTIVATION_SILU: u32 = 6u;

/// `which` is fixed when the pipeline is made, so the choice costs nothing at run time; with other numbers x itself.
fn activate(which: u32, x: vec4<f32>) -> vec4<f32> {
    if which == ACTIVATION_GELU {
        return gelu(x);
    }
    if which == ACTIVATION_TANH {
        return tanh_clamped(x);
    }
    if which == ACTIVATION_RELU {
        return max(x, vec4(0.0));
    }
    if which == ACTIVATION_GELU_TANH {
        return gelu_tanh(x);
    }
    if which == ACTIVATION_SILU {
        return silu(x);
    }
    return x;
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
