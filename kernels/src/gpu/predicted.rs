//! What `cargo xtask gpu-report` predicts of each kernel on an Apple GPU, from the instructions that a compiler makes.

/// One variant a line: name, threads in flight on a core, and which part of its hot loop's instructions are
/// multiply-adds: a bound for its share of the peak.
const FIGURES: &str = include_str!("../../wgsl/predicted.tsv");

/// Most of the peak that a pipeline can reach on an Apple GPU, by its name; `None` if that was not predicted. A GEMM's
/// loop is the same for all widths, and so is its share.
#[must_use]
pub fn multiply_add_share(pipeline: &str) -> Option<f64> {
    let key = |name: &str| {
        let words: Vec<&str> = name.split_whitespace().collect();
        let [shader, storage, .., variant] = words[..] else { return None };
        // Shapes and epilogues lie between. Where one is a shader's own text, the loop is still the same.
        let shader = shader.strip_suffix("_gate").or(shader.strip_suffix("_rotary")).unwrap_or(shader);
        Some([shader, storage, variant].map(str::to_owned))
    };
    let wanted = key(pipeline)?;
    let figures = FIGURES.lines().filter_map(|line| {
        let [name, _, share] = line.split('\t').collect::<Vec<_>>()[..] else { return None };
        Some((name, share.parse::<f64>().ok().filter(|&share| share > 0.0)?))
    });
    let same = |shader: &str| shader == "gemm_tile" || shader == "attention" || shader == "gemm_tile_norm";
    let mut like = None;
    for (name, share) in figures {
        if name == pipeline {
            return Some(share);
        }
        let found = key(name);
        let is_like = found.as_ref().is_some_and(|found| *found == wanted && same(&found[0]));
        // Of a GEMM with a norm, the last word is its shape.
        let is_norm = wanted[0] == "gemm_tile_norm" && found.is_some_and(|found| found[..2] == wanted[..2]);
        if is_like || is_norm {
            like = Some(share);
        }
    }
    like
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_of_another_width_has_the_share_of_its_tile() {
        let known = multiply_add_share("gemm_tile f32 384x1536 gelu tile96").unwrap();
        assert!((0.8..1.0).contains(&known), "{known}");
        let other = multiply_add_share("gemm_tile f32 1024x4096 relu tile96").unwrap();
        assert!((known - other).abs() < 0.02, "{other}");
        assert_eq!(multiply_add_share("gemm_tile_gate f32 1024x4096 relu_gate tile96"), Some(other));
        assert!(multiply_add_share("gemm_tile f16 1024x4096 relu tile64r4").unwrap() < known);
        assert_eq!(multiply_add_share("gemm_cpu f32 384x1536 gelu software32"), None);
        assert_eq!(multiply_add_share("gather f32"), None);
    }
}
