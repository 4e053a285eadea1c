//! Reads the listing of Mesa's compiler for Apple GPUs: which instructions each loop has.

use std::collections::BTreeMap;

/// What an instruction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A fused multiply-add.
    MultiplyAdd,
    /// Other float arithmetic.
    Float,
    /// exp2, log2, reciprocals, roots: a quarter of the rate of the others.
    Special,
    /// A load or store of device memory.
    Device,
    /// A load or store of workgroup memory.
    Workgroup,
    /// A barrier.
    Barrier,
    /// Branches, masks and waits.
    Control,
    /// Addresses, moves, integers, selects.
    Other,
}

/// A stretch of instructions, the loops within it left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Instructions by kind.
    pub(crate) mix: BTreeMap<Kind, u64>,
}

/// A loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loop {
    /// Address of its first instruction.
    pub(crate) start: u64,
    /// Address of its last.
    pub(crate) end: u64,
    /// Its own instructions, inner loops left out.
    pub(crate) own: Block,
}

/// A kernel's instructions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// In order of their addresses, outer before inner.
    pub(crate) loops: Vec<Loop>,
    /// What is in no loop.
    pub(crate) straight: Block,
}

impl Block {
    /// Instructions in all.
    pub(crate) fn instructions(&self) -> u64 {
        self.mix.values().sum()
    }

    /// Issue slots: one for each instruction, four for a special one.
    pub(crate) fn slots(&self) -> u64 {
        self.instructions() + 3 * self.count(Kind::Special)
    }

    /// Instructions of one kind.
    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.mix.get(&kind).copied().unwrap_or(0)
    }

    /// Multiply-adds over all instructions: it bounds the share of peak that the block can reach.
    pub(crate) fn multiply_add_share(&self) -> f64 {
        self.count(Kind::MultiplyAdd) as f64 / self.instructions().max(1) as f64
    }

    fn add(&mut self, kind: Kind) {
        *self.mix.entry(kind).or_default() += 1;
    }
}

impl Listing {
    /// Reads what `AGX_MESA_DEBUG=shaders` prints: the first program in it, as lines of `address: bytes opcode operands`.
    /// The one that follows computes, once a dispatch, what all its threads share.
    pub(crate) fn parse(text: &str) -> Self {
        let mut code: Vec<(u64, &str, &str)> = text.lines().filter_map(instruction).collect();
        let starts = code.iter().enumerate().filter(|(_, (address, ..))| *address == 0);
        let second = starts.map(|(index, _)| index).nth(1);
        code.truncate(second.unwrap_or(code.len()));
        let mut loops: Vec<Loop> = code
            .iter()
            .filter_map(|&(address, opcode, operands)| {
                let back = operands.split_whitespace().find_map(|word| word.strip_prefix('-')?.parse::<u64>().ok())?;
                opcode.starts_with("jmp").then(|| Loop { start: address - back, end: address, own: Block::default() })
            })
            .collect();
        loops.sort_by_key(|l| (l.start, std::cmp::Reverse(l.end)));
        let mut straight = Block::default();
        for (address, opcode, _) in code {
            // The innermost loop around an address is the last one that begins before it and ends after it.
            match loops.iter_mut().rev().find(|l| (l.start..=l.end).contains(&address)) {
                Some(inner) => inner.own.add(kind(opcode)),
                None => straight.add(kind(opcode)),
            }
        }
        Self { loops, straight }
    }

    /// The loop with the most multiply-adds; straight code where no loop has any.
    pub(crate) fn hot(&self) -> &Block {
        let hottest = self.loops.iter().map(|l| &l.own).max_by_key(|own| own.count(Kind::MultiplyAdd));
        hottest.filter(|own| own.count(Kind::MultiplyAdd) > 0).unwrap_or(&self.straight)
    }

    /// Issue slots of one thread when loop `i` runs `trips[i]` times in all; loops past the end of `trips` run once.
    pub(crate) fn slots(&self, trips: &[u64]) -> u64 {
        let trips = trips.iter().copied().chain(std::iter::repeat(1));
        self.straight.slots() + self.loops.iter().zip(trips).map(|(l, trips)| l.own.slots() * trips).sum::<u64>()
    }
}

/// `   1c2: 0123456789abcdef       ffma     r1, r2, …`
fn instruction(line: &str) -> Option<(u64, &str, &str)> {
    let (address, rest) = line.trim_start().split_once(": ")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let (bytes, rest) = rest.split_once(char::is_whitespace)?;
    if bytes.is_empty() || !bytes.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let rest = rest.trim_start();
    let (opcode, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let named = opcode.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    (named && !opcode.is_empty()).then_some((address, opcode, operands))
}

fn kind(opcode: &str) -> Kind {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| opcode.starts_with(prefix));
    match opcode {
        "ffma" | "hfma" => Kind::MultiplyAdd,
        "fmul" | "fadd" | "hmul" | "hadd" => Kind::Float,
        "rcp" | "rsqrt" | "exp2" | "log2" | "sin" => Kind::Special,
        "load" | "store" => Kind::Device,
        "lload" | "lstore" | "local_load" | "local_store" => Kind::Workgroup,
        _ if opcode.contains("barrier") => Kind::Barrier,
        _ if starts(&["device_"]) => Kind::Device,
        _ if starts(&["jmp", "if", "else", "pop", "while", "wait", "stop"]) => Kind::Control,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
noise
   0: 1234                 ldimm    r1, 0
   4: 5678                 while    r1, r2
   8: 0123456789abcdef     ffma     r3, r3, r3
  10: 0123456789abcdef     lload    r4
  18: 0123456789abcdef     exp2     r4, r4
  20: 0123                     jmp_any  -24
  24: 0123                 stop
the second program
   0: 1234                 load     r1
   4: 0123                 stop
";

    #[test]
    fn instructions_belong_to_their_innermost_loop() {
        let listing = Listing::parse(TEXT);
        assert_eq!(listing.loops.len(), 1);
        assert_eq!((listing.loops[0].start, listing.loops[0].end), (8, 0x20));
        assert_eq!(listing.loops[0].own.instructions(), 4);
        assert_eq!(listing.straight.instructions(), 3);
        assert!((listing.hot().multiply_add_share() - 0.25).abs() < 1e-9);
        assert_eq!(listing.slots(&[10]), 3 + 10 * 7);
    }
}
