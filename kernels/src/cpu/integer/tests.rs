//! Integer products against exact sums, on every instruction set, with its extension for integers and without.

use super::*;
use crate::cpu::simd::InstructionSet;

/// Numbers in -1 to 1 (xorshift32).
fn random(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// One product of a block: `x` is `[rows, inputs]`, `weights` is `[outputs, inputs]`.
struct Case<'a> {
    rows: usize,
    inputs: usize,
    outputs: usize,
    x: &'a [f32],
    weights: &'a [f32],
}

impl Case<'_> {
    /// The quantised left matrix, its scales, and the bits of the result, `[rows, outputs]`.
    fn compute<W: Weight>(&self, isa: Isa) -> (Vec<i16>, Vec<f32>, Vec<u32>) {
        let Self { rows, inputs, outputs, x, weights } = *self;
        let padded = outputs.next_multiple_of(isa.panel());
        let weight = |output, input| if output < outputs { weights[output * inputs + input] } else { 0.0 };
        let panels = IntegerPanels::<W>::new(padded, inputs, isa.panel(), weight);
        let mut left = LeftBuffer::default();
        left.fit(rows, inputs);
        let a = left.quantise::<W>(isa, rows, inputs, Matrix::new(x, inputs)).block(0);
        let (b, scales) = panels.block(0, inputs, 0..padded);
        let mut c = vec![f32::NAN; rows * padded];
        isa.run_integers(IntegerGemm {
            rows,
            depth: inputs,
            a,
            b,
            scales,
            c: MatrixMut::new(&mut c, padded),
            init: Init::Zero,
            finish: Finish::Store,
        });
        let bits = c.chunks_exact(padded).flat_map(|row| &row[..outputs]).map(|x| x.to_bits()).collect();
        let values = a.values.chunks_exact(K_BLOCK).flat_map(|row| row[..inputs].to_vec()).collect();
        (values, a.scales.to_vec(), bits)
    }

    /// The same from sums in i64, whose terms no instruction set has touched.
    fn expect<W: Weight + Into<i64>>(&self, values: &[i16], scales: &[f32]) -> Vec<u32> {
        let Self { inputs, weights, .. } = *self;
        let mut bits = Vec::new();
        for (a, a_scale) in values.chunks_exact(inputs).zip(scales) {
            for weights in weights.chunks_exact(inputs) {
                let scale = weights.iter().map(|weight| weight.abs()).fold(0.0, f32::max) / W::MAX;
                let weight = |weight: f32| -> i64 { W::round(weight / scale.max(f32::MIN_POSITIVE)).into() };
                let sum: i64 = a.iter().zip(weights).map(|(&a, &w)| i64::from(a) * weight(w)).sum();
                let sum = i32::try_from(sum).expect("the sums of a block fit");
                bits.push((sum as f32 * (a_scale * scale)).to_bits());
            }
        }
        bits
    }

    fn check<W: Weight + Into<i64>>(&self, what: &str) {
        let (values, scales, portable) = self.compute::<W>(Isa::new(InstructionSet::Portable).unwrap());
        let Self { rows, inputs, outputs, .. } = *self;
        assert!(portable == self.expect::<W>(&values, &scales), "portable, {what}, {rows}×{inputs}×{outputs}");
        for isa in Isa::available() {
            assert!(self.compute::<W>(isa).2 == portable, "{isa:?}, {what}, {rows}×{inputs}×{outputs}");
        }
    }
}

#[test]
fn every_instruction_set_has_the_bits_of_exact_sums() {
    for (inputs, outputs) in [(1, 1), (2, 5), (3, 32), (31, 33), (100, 64), (383, 40), (K_BLOCK, 33)] {
        for rows in [1, 2, 6, 7, 11, 12, 13, 40] {
            let (x, weights) = (random(rows * inputs, 1), random(outputs * inputs, 2));
            let case = Case { rows, inputs, outputs, x: &x, weights: &weights };
            case.check::<i8>("random");
            case.check::<i16>("random");
        }
    }
}

#[test]
fn sums_of_the_largest_numbers_of_either_sign_are_exact() {
    let (rows, inputs, outputs) = (13, K_BLOCK, 33);
    for (x_sign, weight_sign) in [(1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)] {
        let (x, weights) = (vec![x_sign; rows * inputs], vec![weight_sign; outputs * inputs]);
        let case = Case { rows, inputs, outputs, x: &x, weights: &weights };
        case.check::<i8>("largest");
        case.check::<i16>("largest");
    }
    let signs = |count, seed| random(count, seed).into_iter().map(f32::signum).collect::<Vec<_>>();
    let (x, weights) = (signs(rows * inputs, 3), signs(outputs * inputs, 4));
    let case = Case { rows, inputs, outputs, x: &x, weights: &weights };
    case.check::<i8>("largest of random signs");
    case.check::<i16>("largest of random signs");
}
