//! Documents that say nearly the same, found by the phrases that they share.
//!
//! A document is a sketch: the lowest hashes of its phrases of three words. Two sketches estimate how large a share of
//! all their phrases both have (bottom-k sampling, Cohen and Kaplan 2007); for documents with fewer phrases than a
//! sketch holds, the share is exact. So a thousand documents are compared in the time of some million steps.

use std::collections::BTreeSet;

/// Words of a phrase.
const PHRASE_WORDS: usize = 3;

/// Hashes of a sketch: the estimate's error is below 0.1 for nearly all pairs.
const SKETCH_HASHES: usize = 128;

/// The documents that are kept.
#[derive(Debug)]
pub(crate) struct Duplicates {
    /// The share from which two documents are the same.
    share: f64,
    kept: Vec<Vec<u64>>,
}

impl Duplicates {
    pub(crate) fn new(share: f64) -> Self {
        Self { share, kept: Vec::new() }
    }

    /// Keeps a document, unless one that is kept says the same. Returns whether it is kept.
    pub(crate) fn admit(&mut self, text: &str) -> bool {
        let sketch = sketch(text);
        if self.kept.iter().any(|kept| shared(kept, &sketch) >= self.share) {
            return false;
        }
        self.kept.push(sketch);
        true
    }
}

/// The lowest hashes of a text's phrases, in order.
fn sketch(text: &str) -> Vec<u64> {
    let words: Vec<u64> = text
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.chars().flat_map(char::to_lowercase).fold(SEED, |hash, letter| step(hash, letter.into())))
        .collect();
    let mut lowest = BTreeSet::new();
    // A text of fewer words is one phrase.
    for phrase in words.windows(PHRASE_WORDS.min(words.len()).max(1)) {
        lowest.insert(mix(phrase.iter().fold(SEED, |hash, &word| step(hash, word))));
        if lowest.len() > SKETCH_HASHES {
            lowest.pop_last();
        }
    }
    lowest.into_iter().collect()
}

/// An estimate of the share that two texts have in common of all phrases of both. Two texts without words are the same.
fn shared(left: &[u64], right: &[u64]) -> f64 {
    let (mut at_left, mut at_right, mut common, mut all) = (0, 0, 0_u32, 0_u32);
    while all < SKETCH_HASHES as u32 {
        let next = match (left.get(at_left), right.get(at_right)) {
            (None, None) => break,
            (Some(&left), Some(&right)) => left.min(right),
            (Some(&one), None) | (None, Some(&one)) => one,
        };
        let (is_left, is_right) = (left.get(at_left) == Some(&next), right.get(at_right) == Some(&next));
        at_left += usize::from(is_left);
        at_right += usize::from(is_right);
        common += u32::from(is_left && is_right);
        all += 1;
    }
    if all == 0 { 1.0 } else { f64::from(common) / f64::from(all) }
}

/// Of FNV-1a, 64 bits.
const SEED: u64 = 0xcbf2_9ce4_8422_2325;

fn step(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0100_0000_01b3)
}

/// The finaliser of splitmix64: spreads a hash over all bits, so that the lowest ones are a fair sample.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(from: usize, to: usize) -> String {
        (from..to).map(|word| format!("w{word} ")).collect()
    }

    #[test]
    fn the_share_of_short_texts_is_exact() {
        let share = |left: &str, right: &str| shared(&sketch(left), &sketch(right));
        assert_eq!(share("A b, c!", "a B  c"), 1.0);
        assert_eq!(share("a b c d", "b c d e"), 1.0 / 3.0);
        assert_eq!(share("a", "b"), 0.0);
        assert_eq!(share("", "..."), 1.0);
        assert_eq!(share("", "a"), 0.0);
    }

    #[test]
    fn the_share_of_long_texts_is_near() {
        for (common, share) in [(1000, 1.0), (900, 0.818), (500, 0.333), (0, 0.0)] {
            let (left, right) = (words(0, 1000), words(1000 - common, 2000 - common));
            let estimate = shared(&sketch(&left), &sketch(&right));
            assert!((estimate - share).abs() < 0.1, "{estimate} for {share}");
        }
    }

    #[test]
    fn the_first_of_the_same_stays() {
        let mut duplicates = Duplicates::new(0.8);
        let text = words(0, 100);
        assert!(duplicates.admit(&text));
        assert!(!duplicates.admit(&text.to_uppercase()));
        assert!(!duplicates.admit(&format!("{text} and more")));
        assert!(duplicates.admit(&words(50, 150)));
    }
}
