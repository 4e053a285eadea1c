//! Makes a precompiled character map as SentencePiece does: a double array, then the replacements.

use std::collections::BTreeMap;

const HAS_VALUE: u32 = 1 << 8;
const IS_VALUE: u32 = 1 << 31;

/// Replacements that models in use have, and some that no model has: longer than what they replace, empty, of parts of
/// graphemes, of the first character of a longer one, and of what ASCII follows.
const ENTRIES: &[(&str, &str)] = &[
    ("\t", " "),
    ("\n", " "),
    ("\r", " "),
    ("\u{1}", ""),
    ("\u{7f}", ""),
    ("\u{a0}", " "),
    ("\u{ad}", ""),
    ("\u{200b}", ""),
    ("\u{3000}", " "),
    ("Å", "Å"),
    ("e\u{301}", "é"),
    ("o\u{302}\u{301}", "ố"),
    ("é", "E"),
    ("½", "1⁄2"),
    ("ﷺ", "صلى الله عليه وسلم"),
    ("ﬁ", "fi"),
    ("ｱ", "ア"),
    ("가", "가"),
    ("각", "각"),
    ("\u{1100}\u{1161}", "가"),
    ("क", "k"),
    ("\u{94d}", ""),
    ("👩", "w"),
    ("🇩", "D"),
    ("x\u{308}", "ẍ"),
    ("™", "TM"),
    ("▂", "▁"),
    ("Ⅳ", "IV"),
];

/// The map's bytes.
pub(crate) fn charsmap() -> Vec<u8> {
    let (mut replacements, mut starts) = (String::new(), BTreeMap::new());
    for (text, replacement) in ENTRIES {
        starts.insert(text.as_bytes(), replacements.len() as u32);
        replacements.push_str(replacement);
        replacements.push('\0');
    }
    let mut units = vec![Some(0)];
    place(&mut units, 0, &starts.into_iter().collect::<Vec<_>>(), 0);
    // So that no step leaves the array.
    units.resize(units.len() + 256, None);
    let size = (4 * units.len()) as u32;
    let units = units.into_iter().flat_map(|unit| unit.unwrap_or_default().to_le_bytes());
    size.to_le_bytes().into_iter().chain(units).chain(replacements.into_bytes()).collect()
}

/// Places the children of the node at `at`: texts with the same first `depth` bytes.
fn place(units: &mut Vec<Option<u32>>, at: usize, texts: &[(&[u8], u32)], depth: usize) {
    let mut labels: Vec<u8> = texts.iter().filter_map(|(text, _)| text.get(depth).copied()).collect();
    labels.dedup();
    let value = texts.iter().find(|(text, _)| text.len() == depth);
    let taken: Vec<u8> = value.map(|_| 0).into_iter().chain(labels.iter().copied()).collect();
    let offset = (1_usize..).find(|offset| {
        let places = taken.iter().map(|&label| at ^ offset ^ usize::from(label));
        places.clone().all(|place| place != at && units.get(place).is_none_or(Option::is_none))
    });
    let offset = offset.unwrap();
    let end = taken.iter().map(|&label| (at ^ offset ^ usize::from(label)) + 1).max().unwrap();
    if units.len() < end {
        units.resize(end, None);
    }
    *units[at].as_mut().unwrap() |= (offset as u32) << 10;
    if let Some((_, start)) = value {
        *units[at].as_mut().unwrap() |= HAS_VALUE;
        units[at ^ offset] = Some(IS_VALUE | start);
    }
    for &label in &labels {
        units[at ^ offset ^ usize::from(label)] = Some(u32::from(label));
    }
    for &label in &labels {
        let first = texts.partition_point(|(text, _)| text.get(depth).is_none_or(|&byte| byte < label));
        let end = texts.partition_point(|(text, _)| text.get(depth).is_none_or(|&byte| byte <= label));
        place(units, at ^ offset ^ usize::from(label), &texts[first..end], depth + 1);
    }
}
