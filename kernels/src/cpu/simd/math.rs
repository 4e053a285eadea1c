//! exp and the activations on vectors. The polynomials are minimax fits for these intervals.

use super::Simd;
use crate::architecture::Activation;

/// An activation of each number.
#[inline(always)]
pub(in crate::cpu) fn activate<S: Simd>(s: S, activation: Activation, x: S::F32) -> S::F32 {
    match activation {
        Activation::Gelu => gelu(s, x),
        Activation::GeluTanh => {
            // (1 + tanh(z)) / 2 is the logistic function of 2z.
            const TWICE_ROOT_2_OVER_PI: f32 = 1.595_769_2;
            let square = s.mul_add(s.mul(x, x), s.splat(0.044_715), s.splat(1.0));
            s.mul(x, logistic(s, s.mul(s.mul(x, s.splat(TWICE_ROOT_2_OVER_PI)), square)))
        }
        Activation::Silu => s.mul(x, logistic(s, x)),
        Activation::Relu => s.max(x, s.splat(0.0)),
        Activation::Tanh => {
            let twice = s.add(x, x);
            s.sub(s.mul(s.splat(2.0), logistic(s, twice)), s.splat(1.0))
        }
    }
}

/// 1 / (1 + e⁻ˣ), from e^(-|x|), which cannot overflow.
#[inline(always)]
fn logistic<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let e = exp(s, s.sub(s.splat(0.0), s.abs(x)));
    let positive = s.div(s.splat(1.0), s.add(s.splat(1.0), e));
    s.select_by_sign(x, s.mul(e, positive), positive)
}

/// eˣ, within 2 ulp for x in -87 to 88; below, it stays at e⁻⁸⁷ ≈ 1.6e-38.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and eˣ = 2ⁿ·(1 + r + r²·P(r)); ln 2 is subtracted in two parts, so that r is
/// exact to its last bit.
#[inline(always)]
pub(in crate::cpu) fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const P: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];
    let x = s.max(x, s.splat(-87.0));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-LN2_HIGH), x);
    let r = s.mul_add(n, s.splat(-LN2_LOW), r);
    let p = polynomial(s, r, &P);
    let e = s.add(s.mul_add(s.mul(r, r), p, r), s.splat(1.0));
    s.mul(e, s.pow2(n))
}

/// The exact GELU, x·Φ(x), where Φ(x) = (1 + erf(x/√2))/2 is the normal distribution.
///
/// With u = |x|, 2·Φ(-u) = erfc(u/√2) = e^(-R(u)); R is a polynomial fitted with the weight (1 + u²/2)⁻². Its error is
/// 2e-8 where the GELU is large, and everywhere less than the rounding of the exponent to f32. Unlike (1 + erf)/2 it
/// does not cancel for negative x, so it is nearer to the float64 value than the usual formula in f32. It needs one
/// polynomial; erf needs two.
#[inline(always)]
pub(in crate::cpu) fn gelu<S: Simd>(s: S, x: S::F32) -> S::F32 {
    const R: [f32; 10] = [
        0.79788524,
        0.3183019,
        0.036367975,
        -0.004843161,
        2.2923788e-05,
        0.00018291475,
        -4.9879134e-05,
        7.078691e-06,
        -5.475917e-07,
        1.816457e-08,
    ];
    let u = s.abs(x);
    let exponent = s.mul(polynomial(s, u, &R), u);
    let tail = s.mul(exp(s, s.sub(s.splat(0.0), exponent)), s.splat(0.5));
    let positive = s.sub(s.splat(1.0), tail);
    s.mul(x, s.select_by_sign(x, tail, positive))
}

/// c₀ + c₁·x + c₂·x² + …
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::F32, coefficients: &[f32; N]) -> S::F32 {
    let mut sum = s.splat(coefficients[N - 1]);
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = s.mul_add(sum, x, s.splat(coefficient));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, Kernel};
    use super::*;
    use crate::reference;

    /// Applies a function to every number; the length is a multiple of every vector's.
    struct Map<'a> {
        values: &'a mut [f32],
        /// exp without one.
        activation: Option<Activation>,
    }

    impl Kernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for chunk in self.values.chunks_exact_mut(S::LANES) {
                let x = s.load(chunk);
                let y = self.activation.map_or_else(|| exp(s, x), |activation| activate(s, activation, x));
                s.store(chunk, y);
            }
        }
    }

    /// Every `step`-th float from `from` towards larger magnitude while `within` holds, in chunks.
    fn sample(from: f32, to: f32, step: u32, mut check: impl FnMut(&[f32])) {
        let (from, to) = (from.to_bits(), to.to_bits());
        let mut chunk = Vec::with_capacity(1024);
        for bits in (from..=to).step_by(step as usize) {
            chunk.push(f32::from_bits(bits));
            if chunk.len() == 1024 {
                check(&chunk);
                chunk.clear();
            }
        }
    }

    fn ulp(expected: f64) -> f64 {
        let nearest = (expected.abs() as f32).max(f32::MIN_POSITIVE);
        f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest)
    }

    #[test]
    fn exp_is_within_two_ulp_of_float64() {
        for isa in Isa::available() {
            let mut worst = (0f64, 0f32);
            let mut check = |xs: &[f32]| {
                let mut values = xs.to_vec();
                isa.run(Map { values: &mut values, activation: None });
                for (&x, &value) in xs.iter().zip(&values) {
                    let expected = f64::from(x).exp();
                    let error = (f64::from(value) - expected).abs() / ulp(expected);
                    if error > worst.0 {
                        worst = (error, x);
                    }
                }
            };
            sample(1e-30, 88.0, 499, &mut check);
            sample(-1e-30, -87.0, 499, &mut check);
            println!("{isa:?}: {:.3} ulp at {}", worst.0, worst.1);
            assert!(worst.0 <= 2.0, "{isa:?}: {} ulp at {}", worst.0, worst.1);
        }
    }

    #[test]
    fn gelu_is_within_three_ulp_for_positive_and_the_exponents_rounding_for_negative_numbers() {
        for isa in Isa::available() {
            let mut worst_positive = (0f64, 0f32);
            let mut worst_negative = (0f64, 0f32);
            let mut check = |xs: &[f32]| {
                let mut values = xs.to_vec();
                isa.run(Map { values: &mut values, activation: Some(Activation::Gelu) });
                for (&x, &value) in xs.iter().zip(&values) {
                    let x64 = f64::from(x);
                    // libm's erfc does not cancel, unlike the reference's formula in the far tail.
                    let expected = 0.5 * x64 * libm::erfc(-x64 * std::f64::consts::FRAC_1_SQRT_2);
                    let error = (f64::from(value) - expected).abs();
                    let (worst, error) = if x >= 0.0 {
                        (&mut worst_positive, error / ulp(expected))
                    } else {
                        (&mut worst_negative, error / (expected.abs() * (1.0 + x64 * x64 / 2.0) + 1e-3))
                    };
                    if error > worst.0 {
                        *worst = (error, x);
                    }
                }
            };
            sample(1e-30, 100.0, 997, &mut check);
            sample(-1e-30, -100.0, 997, &mut check);
            println!("{isa:?}: {worst_positive:?} ulp, {worst_negative:?} relative");
            assert!(worst_positive.0 <= 3.0, "{isa:?}: {worst_positive:?}");
            assert!(worst_negative.0 <= 5e-7, "{isa:?}: {worst_negative:?}");
        }
    }

    #[test]
    fn every_activation_agrees_with_the_reference_near_zero_and_far_from_it() {
        let activations =
            [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu, Activation::Tanh];
        let near = (-8192..8192).map(|i| i as f32 / 1024.0);
        let far = [100.0, -100.0, 1e4, -1e4, 1e15, -1e15, 3e38, -3e38];
        let xs: Vec<f32> = near.chain([far, far, far, far].concat()).collect();
        for (isa, activation) in Isa::available().flat_map(|isa| activations.map(|a| (isa, a))) {
            let mut values = xs.clone();
            isa.run(Map { values: &mut values, activation: Some(activation) });
            for (&x, &value) in xs.iter().zip(&values) {
                let expected = reference::activate(activation, f64::from(x));
                let error = (f64::from(value) - expected).abs();
                let bound = 3e-7 * f64::from(x.abs()).max(1.0);
                assert!(error <= bound, "{isa:?}: {activation:?}({x}) = {value}, off by {error:e}");
            }
        }
    }

    #[test]
    fn gelu_agrees_with_the_reference_to_f32_rounding() {
        let xs: Vec<f32> = (-8192..8192).map(|i| i as f32 / 1024.0).collect();
        for isa in Isa::available() {
            let mut values = xs.clone();
            isa.run(Map { values: &mut values, activation: Some(Activation::Gelu) });
            for (&x, &value) in xs.iter().zip(&values) {
                let error = (f64::from(value) - reference::gelu(f64::from(x))).abs();
                assert!(
                    error <= 1.2e-7 * f64::from(x.abs()).max(1e-3),
                    "{isa:?}: gelu({x}) = {value}, off by {error:e}"
                );
            }
        }
    }
}
