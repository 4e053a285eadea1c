//! Requests of seeded random words with set lengths.
//!
//! Every word is one token of the BERT vocabulary, so a text of n words has n tokens, and the model sees the lengths
//! that the scenario sets. The texts mean nothing, but cost as much as real ones.

use assay::rerank::Request;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal};

use crate::scenario::{Lengths, LoadSection};

/// Default number of documents in a request: the baseline's.
pub(super) const DEFAULT_BATCH: u32 = 32;

/// Common words that are tokens of the uncased BERT vocabulary.
const WORDS: &str = "the of and to in is was for on as with by he that at from his it an were are which this also be \
    has or had first one their its new after but who not they have her she two been other when there all during into \
    time may school more years over only year most would world city some where between later three state such then \
    national used made known under many university united while part season team these american than film second \
    born south became states war through being including both before north high however people family early history \
    album area them series against until since district county name work life group music following number company \
    several four called played released career league game government house each based day same women use station \
    club international town located population general college east found age march end september began home public \
    church line june river member system place century band july york january song october august best former british \
    party named held village show local november did service december built another major west long small water \
    library search engine query document model table paper method result value field market report police court";

/// Makes `section.distinct_requests` requests of `batch` documents.
pub(super) fn requests(seed: u64, section: &LoadSection, batch: usize) -> Vec<Request> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    // Its output is specified, unlike the default generators': a seed gives the same load in every version of this
    // program.
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut text = |lengths: &Lengths| -> String {
        let length = draw(lengths, &mut random) as usize;
        let drawn: Vec<&str> = (0..length).map(|_| words[random.random_range(0..words.len())]).collect();
        drawn.join(" ")
    };
    (0..section.distinct_requests)
        .map(|_| Request {
            query: text(&section.query),
            documents: (0..batch).map(|_| text(&section.document)).collect(),
            ..Default::default()
        })
        .collect()
}

fn draw(lengths: &Lengths, random: &mut impl Rng) -> u32 {
    match *lengths {
        Lengths::Fixed { tokens } => tokens,
        Lengths::Uniform { min, max } => random.random_range(min.min(max)..=max),
        Lengths::LogNormal { median, sigma, min, max } => {
            let length = match LogNormal::new(f64::from(median.max(1)).ln(), sigma) {
                Ok(distribution) => distribution.sample(random),
                // Only a sigma that is NaN or infinite is refused.
                Err(_) => f64::from(median),
            };
            (length.round() as u32).clamp(min.min(max), max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Special tokens of a pair: one before, between and after the two texts.
    const SPECIAL_TOKENS: usize = 3;

    #[test]
    fn the_default_load_has_the_padding_waste_of_the_baseline() {
        for seed in [1, 42, 1_000] {
            let requests = requests(seed, &LoadSection::default(), 32);
            let waste = |request: &Request| {
                let words = |text: &str| text.split(' ').count();
                let query = words(&request.query) + SPECIAL_TOKENS;
                let rows: Vec<usize> = request.documents.iter().map(|text| words(text) + query).collect();
                let longest = rows.iter().max().unwrap() * rows.len();
                1.0 - rows.iter().sum::<usize>() as f64 / longest as f64
            };
            let mean = 100.0 * requests.iter().map(waste).sum::<f64>() / requests.len() as f64;
            assert!((40.5..43.5).contains(&mean), "seed {seed}: {mean:.2} % is not about 42 %");
        }
    }

    #[test]
    fn equal_seeds_give_equal_loads_within_the_lengths() {
        let lengths = Lengths::Uniform { min: 2, max: 4 };
        let section = LoadSection { distinct_requests: 50, query: Lengths::Fixed { tokens: 5 }, document: lengths };
        let first = requests(7, &section, 3);
        assert_eq!(first, requests(7, &section, 3));
        assert_ne!(first, requests(8, &section, 3));
        let count = |text: &String| text.split(' ').count();
        assert!(first.iter().all(|request| count(&request.query) == 5 && request.documents.len() == 3));
        let mut seen: Vec<usize> = first.iter().flat_map(|request| request.documents.iter().map(count)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [2, 3, 4]);
    }
}
