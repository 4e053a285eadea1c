//! Which rows are computed together, and by how many threads.
//!
//! A *group* is a set of rows that one thread takes through the whole model alone. It is small enough that its
//! activations stay in the second-level cache, and no thread waits for another until the batch is done. If the rows are
//! too few or too uneven for that, all threads form one *team* that shares each group: each member computes some of the
//! tokens, and members meet once per layer, before they read each other's keys and values.

use crate::architecture::Architecture;
use crate::batch::PackedBatch;
use crate::flops;

/// Whether threads share groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Each group is computed by the thread that takes it.
    #[default]
    Alone,
    /// Each group is shared by this many threads.
    Team(usize),
}

/// Rows in computing order, cut into groups. Reused: serving allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    pub(super) sharing: Sharing,
    /// Tokens of the largest group.
    pub(super) max_tokens: usize,
    /// Rows of the batch, group after group.
    rows: Vec<u32>,
    /// Where each group begins in `rows`, and the end: `[groups + 1]`.
    starts: Vec<u32>,
    /// Rows of the batch, longest first, and each one's bin.
    ranked: Vec<(u32, u32)>,
    bins: Vec<Bin>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    rows: u32,
    tokens: usize,
    flops: u64,
}

/// Limits of a grouping; [`super::CpuEngine::load`] sets them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) threads: usize,
    /// Tokens that a group should have.
    pub(super) group_tokens: usize,
    /// Fewest tokens that a member of a team should have.
    pub(super) member_tokens: usize,
}

/// Overhead of a team: it meets once per layer, and its parts do not fill whole tiles. A team is used if separate
/// threads would take this many times longer.
const TEAM_OVERHEAD: f64 = 1.06;

impl Grouping {
    pub(super) fn groups(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Rows of the batch in a group.
    pub(super) fn group(&self, index: usize) -> &[u32] {
        &self.rows[self.starts[index] as usize..self.starts[index + 1] as usize]
    }

    /// Divides a batch of at least one row. A group has at most `group_tokens` tokens per member plus one row.
    pub(super) fn make(&mut self, architecture: &Architecture, batch: &PackedBatch, limits: Limits) {
        let Limits { threads, group_tokens, member_tokens } = limits;
        self.ranked.clear();
        self.ranked.extend((0..batch.rows() as u32).map(|row| (row, 0)));
        // Longest first: the short rows at the end even out the bins.
        self.ranked.sort_unstable_by_key(|&(row, _)| (std::cmp::Reverse(batch.row(row as usize).ids.len()), row));

        self.sharing = Sharing::Alone;
        let rounds = batch.tokens().div_ceil(group_tokens * threads);
        self.fill_bins(architecture, batch, rounds * threads, group_tokens);
        let team = threads.min(batch.tokens() / member_tokens);
        let total: u64 = self.bins.iter().map(|bin| bin.flops).sum();
        if team > 1 && self.makespan(threads) as f64 > total as f64 / team as f64 * TEAM_OVERHEAD {
            self.sharing = Sharing::Team(team);
            let group_tokens = group_tokens * team;
            self.fill_bins(architecture, batch, batch.tokens().div_ceil(group_tokens), group_tokens);
        }
        self.max_tokens = self.bins.iter().map(|bin| bin.tokens).max().unwrap_or(0);
        self.cut();
    }

    /// Puts each row into the least loaded bin that is not full. There always is one: together the bins have room for
    /// `bins · group_tokens`, at least the size of the batch.
    fn fill_bins(&mut self, architecture: &Architecture, batch: &PackedBatch, bins: usize, group_tokens: usize) {
        self.bins.clear();
        self.bins.resize(bins, Bin::default());
        for (row, place) in &mut self.ranked {
            let tokens = batch.row(*row as usize).ids.len();
            let open = (0..bins).filter(|&bin| self.bins[bin].tokens < group_tokens);
            let least = open.min_by_key(|&bin| self.bins[bin].flops).unwrap_or(0);
            let bin = &mut self.bins[least];
            bin.rows += 1;
            bin.tokens += tokens;
            bin.flops += flops::row_flops(architecture, tokens);
            *place = least as u32;
        }
    }

    /// Work of the busiest thread. Bins have nearly equal work, so this is the sum of the largest bin in each round.
    fn makespan(&self, threads: usize) -> u64 {
        self.bins.chunks(threads).map(|round| round.iter().map(|bin| bin.flops).max().unwrap_or(0)).sum()
    }

    /// Orders the rows by bin, keeping their order within each.
    fn cut(&mut self) {
        self.starts.clear();
        let mut start = 0;
        for bin in &mut self.bins {
            self.starts.push(start);
            start += std::mem::replace(&mut bin.rows, start);
        }
        self.starts.push(start);
        self.rows.clear();
        self.rows.resize(self.ranked.len(), 0);
        for &(row, bin) in &self.ranked {
            // `rows` of a bin now holds the index for its next row.
            let next = &mut self.bins[bin as usize].rows;
            self.rows[*next as usize] = row;
            *next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Row;
    use crate::families;

    const CONFIG: &[u8] = br#"{"model_type": "bert", "vocab_size": 10, "hidden_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 12, "intermediate_size": 1536, "max_position_embeddings": 512, "num_labels": 1}"#;

    fn group(lengths: &[usize], threads: usize) -> Grouping {
        let mut batch = PackedBatch::default();
        for &length in lengths {
            batch.push(Row { ids: &vec![1; length], second_segment: 0 }).unwrap();
        }
        let mut grouping = Grouping::default();
        grouping.make(
            &families::read_config(CONFIG).unwrap(),
            &batch,
            Limits { threads, group_tokens: 96, member_tokens: 12 },
        );
        let mut rows: Vec<u32> = (0..grouping.groups()).flat_map(|group| grouping.group(group).to_vec()).collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..lengths.len() as u32).collect::<Vec<_>>(), "every row once");
        grouping
    }

    #[test]
    fn many_rows_are_computed_alone_in_groups_that_fit() {
        let lengths: Vec<usize> = (0..64).map(|i| 20 + (i * 37) % 120).collect();
        let grouping = group(&lengths, 2);
        assert_eq!(grouping.sharing, Sharing::Alone);
        assert_eq!(grouping.groups() % 2, 0);
        for group in 0..grouping.groups() {
            let tokens: usize = grouping.group(group).iter().map(|&row| lengths[row as usize]).sum();
            assert!(tokens < 96 + 140, "group {group} has {tokens} tokens");
        }
    }

    #[test]
    fn few_or_uneven_rows_are_shared_by_all_threads() {
        assert_eq!(group(&[80], 2).sharing, Sharing::Team(2));
        assert_eq!(group(&[500, 20], 2).sharing, Sharing::Team(2));
        assert_eq!(group(&[80, 80, 80], 2).sharing, Sharing::Team(2));
        assert_eq!(group(&[80], 16).sharing, Sharing::Team(6));
        assert_eq!(group(&[80, 80], 2).sharing, Sharing::Alone);
        assert_eq!(group(&[11], 2).sharing, Sharing::Alone);
        assert_eq!(group(&[500, 20], 1).sharing, Sharing::Alone);
    }
}
