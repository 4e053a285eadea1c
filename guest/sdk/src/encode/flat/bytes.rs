//! The characters that stand for bytes in the vocabulary of a byte-level tokenizer: `Ġ` for a space, for example.
//!
//! Source: `bytes_char` in `pre_tokenizers/byte_level.rs` of `tokenizers` 0.23.

/// The character for each byte: those that print stand for themselves, the others follow from U+0100 on.
const CHARACTERS: [char; 256] = {
    let mut characters = ['\0'; 256];
    let (mut byte, mut next) = (0, 0x100);
    while byte < characters.len() {
        let prints = matches!(byte as u8, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if prints { byte as u32 } else { next };
        next += !prints as u32;
        characters[byte] = match char::from_u32(code) {
            Some(character) => character,
            None => panic!("all of these are characters"),
        };
        byte += 1;
    }
    characters
};

/// From U+0100 on, the byte of each character.
const FROM_0X100: [u8; 68] = {
    let mut bytes = [0; 68];
    let mut byte = 0;
    while byte < CHARACTERS.len() {
        let code = CHARACTERS[byte] as usize;
        if code >= 0x100 {
            bytes[code - 0x100] = byte as u8;
        }
        byte += 1;
    }
    bytes
};

/// Writes the bytes that a vocabulary's entry stands for. `false` if one of its characters stands for none.
pub(super) fn of_entry(entry: &str, bytes: &mut Vec<u8>) -> bool {
    bytes.clear();
    for character in entry.chars() {
        let code = character as usize;
        match CHARACTERS.get(code) {
            Some(&itself) if itself == character => bytes.push(code as u8),
            _ => match code.checked_sub(0x100).and_then(|from| FROM_0X100.get(from)) {
                Some(&byte) => bytes.push(byte),
                None => return false,
            },
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    #[test]
    fn each_byte_has_the_character_that_tokenizers_gives_it() {
        let text: String = ('\0'..='\u{7ff}').chain(['\u{800}', '\u{ffff}', '\u{10000}', char::MAX]).collect();
        let mut words = PreTokenizedString::from(text.as_str());
        ByteLevel::new(false, false, false).pre_tokenize(&mut words).unwrap();
        let (entry, ..) = words.get_splits(OffsetReferential::Normalized, OffsetType::None).remove(0);
        let mut bytes = Vec::new();
        assert!(of_entry(entry, &mut bytes));
        assert_eq!(bytes, text.as_bytes());
        let alphabet = ByteLevel::alphabet();
        assert!(alphabet.len() == 256 && CHARACTERS.iter().all(|character| alphabet.contains(character)));
    }

    #[test]
    fn other_characters_stand_for_no_byte() {
        let mut bytes = Vec::new();
        for entry in [" ", "a\u{ad}", "\u{7f}", "▁", "\u{144}", "é\n"] {
            assert!(!of_entry(entry, &mut bytes), "{entry:?}");
        }
    }
}
