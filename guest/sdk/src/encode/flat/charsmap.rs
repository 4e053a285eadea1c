//! SentencePiece's precompiled character map, as `tokenizers` applies it.
//!
//! The map replaces short texts, by a double array that comes with the model. `tokenizers` asks it for each grapheme of
//! less than six bytes, and otherwise for each character. It takes the shortest entry at the start of what it asks for,
//! and drops the rest: `\r\n` becomes what `\r` becomes. SentencePiece itself takes the longest entry anywhere.
//!
//! Graphemes of ASCII are single characters, except `\r\n`, so only what stands beside other characters is cut into
//! graphemes.
//!
//! Source: `normalizers/precompiled.rs` of `tokenizers` 0.23 and `spm_precompiled` 0.1.4.

use unicode_segmentation::UnicodeSegmentation;

/// Bytes from which on a grapheme is mapped character by character.
const LONG_GRAPHEME_BYTES: usize = 6;

/// A precompiled character map.
#[derive(Debug)]
pub(super) struct Charsmap {
    /// The double array.
    units: Vec<u32>,
    /// The replacements, each with a zero byte after it.
    replacements: String,
    /// Where the replacement of each ASCII character starts.
    ascii: [Option<u32>; 128],
}

impl Charsmap {
    /// Reads the map's bytes: the array's size in bytes, the array, the replacements.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk::<4>()?;
        let (units, replacements) = rest.split_at_checked(u32::from_le_bytes(*size) as usize / 4 * 4)?;
        let units = units.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let replacements = String::from_utf8(replacements.to_vec()).ok()?;
        let mut map = Self { units, replacements, ascii: [None; 128] };
        map.ascii = std::array::from_fn(|byte| map.find(&[byte as u8]));
        Some(map)
    }

    /// Appends the mapped text.
    pub(super) fn map(&self, text: &str, mapped: &mut String) {
        let bytes = text.as_bytes();
        let is_ascii = |at: usize| bytes.get(at).is_none_or(u8::is_ascii);
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == b'\r' && bytes.get(at + 1) == Some(&b'\n') {
                self.map_grapheme("\r\n", mapped);
                at += 2;
            } else if is_ascii(at) && is_ascii(at + 1) {
                match self.ascii[usize::from(bytes[at])] {
                    None => mapped.push(char::from(bytes[at])),
                    Some(start) => mapped.push_str(self.replacement(start)),
                }
                at += 1;
            } else {
                let mut end = at + 1;
                while end < bytes.len() && !(is_ascii(end - 1) && is_ascii(end)) {
                    end += 1;
                }
                if end < bytes.len() && &bytes[end - 1..=end] == b"\r\n" {
                    end -= 1;
                }
                text[at..end].graphemes(true).for_each(|grapheme| self.map_grapheme(grapheme, mapped));
                at = end;
            }
        }
    }

    fn map_grapheme(&self, grapheme: &str, mapped: &mut String) {
        if grapheme.len() < LONG_GRAPHEME_BYTES
            && let Some(start) = self.find(grapheme.as_bytes())
        {
            mapped.push_str(self.replacement(start));
            return;
        }
        let mut buffer = [0; 4];
        for character in grapheme.chars() {
            match self.find(character.encode_utf8(&mut buffer).as_bytes()) {
                Some(start) => mapped.push_str(self.replacement(start)),
                None => mapped.push(character),
            }
        }
    }

    /// Where the replacement of the shortest entry at the start of a text starts.
    fn find(&self, text: &[u8]) -> Option<u32> {
        let mut at = offset(*self.units.first()?);
        for &byte in text.iter().take_while(|&&byte| byte != 0) {
            at ^= u32::from(byte);
            let unit = *self.units.get(at as usize)?;
            if unit & LABEL != u32::from(byte) {
                return None;
            }
            at ^= offset(unit);
            if unit & HAS_VALUE != 0 {
                return Some(self.units.get(at as usize)? & VALUE);
            }
        }
        None
    }

    fn replacement(&self, start: u32) -> &str {
        let rest = self.replacements.get(start as usize..).unwrap_or_default();
        rest.split('\0').next().unwrap_or_default()
    }
}

/// Bits of a unit.
const LABEL: u32 = 1 << 31 | 0xff;
const HAS_VALUE: u32 = 1 << 8;
const VALUE: u32 = !(1 << 31);
const IS_FAR: u32 = 1 << 9;

/// Where a unit's children are.
fn offset(unit: u32) -> u32 {
    (unit >> 10) << if unit & IS_FAR == 0 { 0 } else { 8 }
}
