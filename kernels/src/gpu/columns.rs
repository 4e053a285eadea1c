//! The columns of a packed weight: which output of which linear layer lies where.
//!
//! A weight is transposed, `[inputs, columns]`, so that an output is a column. Layers over the same input lie side by
//! side, each padded with zeros. Where an epilogue takes two outputs together, both are among the four columns of one
//! thread ([`pair_columns`]): what is activated and its gate, and the two numbers that rotary positions turn. This module
//! moves numbers; their precision is [`uploaded`](super::uploaded)'s.

use super::layout::WIDTH_STEP;
use super::ops::gemm::pair_columns;
use crate::weights::Linear;

/// An output of a linear layer, scaled; `None` is padding.
pub(super) type Column<'a> = Option<(&'a Linear, usize, f64)>;

/// Every output in its own order, padded to [`WIDTH_STEP`].
pub(super) fn plain(linear: &Linear, scale: f64) -> Vec<Column<'_>> {
    let mut columns: Vec<_> = (0..linear.outputs()).map(|output| Some((linear, output, scale))).collect();
    columns.resize(columns.len().next_multiple_of(WIDTH_STEP), None);
    columns
}

/// Every output of a layer whose first half is activated and multiplied by the second, in pairs. The pairs are padded to
/// [`WIDTH_STEP`].
pub(super) fn gated(linear: &Linear) -> Vec<Column<'_>> {
    let half = linear.outputs() / 2;
    let pairs = (0..half).map(|output| [output, half + output]);
    paired(linear, 1.0, pairs, 2 * half.next_multiple_of(WIDTH_STEP))
}

/// Every output of a layer whose heads of `head_dim` numbers rotary positions turn: number i of a head is the pair of
/// number i + `head_dim` / 2.
pub(super) fn turned(linear: &Linear, scale: f64, head_dim: usize) -> Vec<Column<'_>> {
    let (outputs, half) = (linear.outputs(), head_dim / 2);
    let pairs = (0..outputs / 2).map(|pair| pair / half * head_dim + pair % half).map(|first| [first, first + half]);
    paired(linear, scale, pairs, outputs.next_multiple_of(WIDTH_STEP))
}

fn paired(linear: &Linear, scale: f64, pairs: impl Iterator<Item = [usize; 2]>, columns: usize) -> Vec<Column<'_>> {
    let mut placed = vec![None; columns];
    for (pair, outputs) in pairs.enumerate() {
        for (column, output) in pair_columns(pair).into_iter().zip(outputs) {
            placed[column] = Some((linear, output, scale));
        }
    }
    placed
}

/// The weights of `columns`, `[inputs, columns]`; inputs are padded to [`WIDTH_STEP`].
pub(super) fn weights(columns: &[Column<'_>]) -> Vec<f32> {
    let n = columns.len();
    let inputs = columns.iter().flatten().map(|(linear, ..)| linear.inputs).max().unwrap_or(0);
    let mut weights = vec![0.0; inputs.next_multiple_of(WIDTH_STEP) * n];
    for (column, &of) in columns.iter().enumerate() {
        let Some((linear, output, scale)) = of else { continue };
        let row = linear.weight.numbers(output * linear.inputs..(output + 1) * linear.inputs);
        for (index, &value) in row.iter().enumerate() {
            weights[index * n + column] = (f64::from(value) * scale) as f32;
        }
    }
    weights
}

/// The biases of `columns`.
pub(super) fn biases(columns: &[Column<'_>]) -> Vec<f32> {
    let bias = |(linear, output, scale): (&Linear, usize, f64)| (f64::from(linear.bias_of(output)) * scale) as f32;
    columns.iter().map(|column| column.map_or(0.0, bias)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `outputs` outputs, each of whose weights and bias is its own number.
    fn numbered(outputs: usize) -> Linear {
        let numbers: Vec<f32> = (0..outputs).map(|output| output as f32).collect();
        Linear { weight: numbers.clone().into(), bias: Some(numbers), inputs: 1 }
    }

    #[test]
    fn what_is_activated_and_its_gate_lie_in_four_columns() {
        let biases = biases(&gated(&numbered(2 * 130)));
        assert_eq!(biases.len(), 2 * 256);
        assert_eq!(biases[..8], [0.0, 1.0, 130.0, 131.0, 2.0, 3.0, 132.0, 133.0]);
        assert_eq!(biases[256..262], [128.0, 129.0, 258.0, 259.0, 0.0, 0.0]);
    }

    #[test]
    fn what_rotary_positions_turn_together_lies_in_four_columns() {
        let biases = biases(&turned(&numbered(2 * 16), 1.0, 16));
        assert_eq!(biases.len(), WIDTH_STEP);
        assert_eq!(biases[..8], [0.0, 1.0, 8.0, 9.0, 2.0, 3.0, 10.0, 11.0]);
        assert_eq!(biases[16..20], [16.0, 17.0, 24.0, 25.0]);
        assert!(biases[32..].iter().all(|&bias| bias == 0.0));
    }

    #[test]
    fn layers_lie_side_by_side_and_inputs_are_padded() {
        let (one, other) = (numbered(2), numbered(3));
        let weights = weights(&[plain(&one, 1.0), plain(&other, 0.5)].concat());
        assert_eq!(weights.len(), WIDTH_STEP * 2 * WIDTH_STEP);
        assert_eq!(weights[..3], [0.0, 1.0, 0.0]);
        assert_eq!(weights[WIDTH_STEP..WIDTH_STEP + 4], [0.0, 0.5, 1.0, 0.0]);
        assert!(weights[2 * WIDTH_STEP..].iter().all(|&weight| weight == 0.0));
    }
}
