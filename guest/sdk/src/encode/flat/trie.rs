//! The pieces of a Unigram vocabulary as a double array: one table in which each byte of a text is one step.
//!
//! A unit is a node. Its children are at `base ^ byte` and hold that byte as their label. No two nodes have the same
//! base, so the label alone shows whose child a unit is. All children of a node lie in one block of 256 units, which
//! is one page of memory or two.

use super::strings::Strings;

const BLOCK: usize = 256;

/// Blocks behind the last one in which places are still looked for: more make the table a little smaller and building
/// it slower.
const OPEN_BLOCKS: usize = 16;

/// No byte: the label of a free unit, and of the root.
const NO_LABEL: u32 = 0x1ff;

const LABEL_BITS: u32 = 9;

#[derive(Clone, Copy, Debug)]
struct Unit {
    /// 0 if there are no children: no node's base is 0.
    base: u32,
    /// The label, and above it one more than the number of the piece that ends here.
    label: u32,
}

const FREE: Unit = Unit { base: 0, label: NO_LABEL };

/// Finds the pieces at the start of a text.
#[derive(Debug)]
pub(super) struct Trie {
    units: Vec<Unit>,
}

impl Trie {
    /// The trie of those pieces that are not empty. Of equal ones, the last counts.
    pub(super) fn of(pieces: &Strings) -> Self {
        let mut order: Vec<u32> = (0..pieces.len() as u32).collect();
        order.retain(|&number| !pieces.get(number as usize).is_empty());
        order.sort_by(|&left, &right| pieces.get(left as usize).cmp(pieces.get(right as usize)));
        // The sort is stable: the last of equal pieces has the largest number.
        order.dedup_by(|later, earlier| {
            let is_same = pieces.get(*later as usize) == pieces.get(*earlier as usize);
            if is_same {
                *earlier = *later;
            }
            is_same
        });
        let mut builder = Builder { pieces, order: &order, units: Vec::new(), used: Vec::new(), free: Vec::new() };
        builder.build();
        let mut units = builder.units;
        units.shrink_to_fit();
        Self { units }
    }

    /// Calls `each` with the length and the number of each piece at the start of `text`, the shortest first.
    #[inline]
    pub(super) fn prefixes(&self, text: &[u8], mut each: impl FnMut(usize, u32)) {
        let mut base = self.units[0].base;
        for (&byte, length) in text.iter().zip(1..) {
            let unit = self.units[(base ^ u32::from(byte)) as usize];
            if unit.label & NO_LABEL != u32::from(byte) {
                return;
            }
            if let Some(number) = (unit.label >> LABEL_BITS).checked_sub(1) {
                each(length, number);
            }
            if unit.base == 0 {
                return;
            }
            base = unit.base;
        }
    }

    /// The number of a piece.
    pub(super) fn get(&self, text: &[u8]) -> Option<u32> {
        let mut found = None;
        self.prefixes(text, |length, number| {
            if length == text.len() {
                found = Some(number);
            }
        });
        found
    }
}

struct Builder<'p> {
    pieces: &'p Strings,
    /// Numbers of the pieces, sorted by their bytes.
    order: &'p [u32],
    units: Vec<Unit>,
    /// Whether a unit's place is a base.
    used: Vec<bool>,
    /// A bit for each free unit.
    free: Vec<u64>,
}

/// Pieces with the same first bytes, and the unit of their node.
struct Node {
    unit: usize,
    depth: usize,
    first: usize,
    end: usize,
}

impl Builder<'_> {
    fn build(&mut self) {
        self.add_block();
        // The root has unit 0, and a base of 0 means that a node has no children.
        self.free[0] &= !1;
        self.used[0] = true;
        let mut nodes = vec![Node { unit: 0, depth: 0, first: 0, end: self.order.len() }];
        let mut children: Vec<(u8, usize)> = Vec::new();
        while let Some(Node { unit, depth, mut first, end }) = nodes.pop() {
            // The piece that ends here sorts before all longer ones.
            if first < end && self.piece(first).len() == depth {
                self.units[unit].label |= (self.order[first] + 1) << LABEL_BITS;
                first += 1;
            }
            if first == end {
                continue;
            }
            children.clear();
            for at in first..end {
                let byte = self.piece(at)[depth];
                if children.last().is_none_or(|&(last, _)| last != byte) {
                    children.push((byte, at));
                }
            }
            let base = self.place(&children);
            self.units[unit].base = base as u32;
            for (index, &(byte, first)) in children.iter().enumerate() {
                let unit = base ^ usize::from(byte);
                self.units[unit].label = u32::from(byte);
                let end = children.get(index + 1).map_or(end, |&(_, next)| next);
                nodes.push(Node { unit, depth: depth + 1, first, end });
            }
        }
    }

    fn piece(&self, at: usize) -> &[u8] {
        self.pieces.get(self.order[at] as usize)
    }

    /// Finds a base for children with these labels, and takes their places.
    fn place(&mut self, children: &[(u8, usize)]) -> usize {
        let base = self.find(children).unwrap_or_else(|| {
            let base = self.units.len();
            self.add_block();
            base
        });
        self.used[base] = true;
        for &(byte, _) in children {
            let unit = base ^ usize::from(byte);
            self.free[unit / 64] &= !(1 << (unit % 64));
        }
        base
    }

    fn find(&self, children: &[(u8, usize)]) -> Option<usize> {
        let first = usize::from(children.first()?.0);
        let open = self.free.len().saturating_sub(OPEN_BLOCKS * BLOCK / 64);
        let words = self.free.iter().enumerate().skip(open);
        let mut bases = words.flat_map(|(word, &bits)| {
            let mut bits = bits;
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some((64 * word + bit) ^ first)
            })
        });
        bases.find(|&base| !self.used[base] && children.iter().all(|&(byte, _)| self.is_free(base ^ usize::from(byte))))
    }

    fn is_free(&self, unit: usize) -> bool {
        self.free[unit / 64] & (1 << (unit % 64)) != 0
    }

    fn add_block(&mut self) {
        let units = self.units.len() + BLOCK;
        self.units.resize(units, FREE);
        self.used.resize(units, false);
        self.free.resize(units / 64, u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trie(texts: &[&[u8]]) -> Trie {
        let mut pieces = Strings::default();
        texts.iter().for_each(|text| pieces.push(text).unwrap());
        Trie::of(&pieces)
    }

    proptest! {
        #[test]
        fn all_pieces_at_the_start_of_a_text_are_found(
            texts in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..4),
                    proptest::collection::vec(0..3_u8, 0..9),
                    proptest::collection::vec(253_u8.., 0..9),
                ],
                0..300,
            ),
            other in proptest::collection::vec(prop_oneof![0..3_u8, 253_u8.., any::<u8>()], 0..12)
        ) {
            let trie = trie(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>());
            for text in texts.iter().chain([&other]) {
                let expected: Vec<(usize, u32)> = (1..=text.len())
                    .filter_map(|length| {
                        let found = texts.iter().rposition(|piece| piece[..] == text[..length])?;
                        Some((length, found as u32))
                    })
                    .collect();
                let mut found = Vec::new();
                trie.prefixes(text, |length, number| found.push((length, number)));
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn a_trie_without_pieces_finds_nothing() {
        for pieces in [&[][..], &[&b""[..]]] {
            assert_eq!(trie(pieces).get(b"a"), None);
            assert_eq!(trie(pieces).get(b"\0"), None);
        }
    }
}
