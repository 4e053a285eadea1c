//! The special tokens and token types of a pair, as the post-processor in `tokenizer.json` has them.

use serde_json::{Value, json};

/// What a pair consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PairTemplate(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    part: Part,
    type_id: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Query,
    Document,
    /// A token and its id.
    Special(String, u32),
}

impl PairTemplate {
    /// BERT's: `[CLS] query [SEP] document [SEP]`, the last two of type 1.
    pub(super) fn bert(first: (&str, u32), separator: (&str, u32)) -> Self {
        let special = |(text, id): (&str, u32)| Part::Special(text.to_owned(), id);
        let parts = [
            (special(first), 0),
            (Part::Query, 0),
            (special(separator), 0),
            (Part::Document, 1),
            (special(separator), 1),
        ];
        Self(parts.into_iter().map(|(part, type_id)| Piece { part, type_id }).collect())
    }

    /// RoBERTa's: `<s> query </s></s> document </s>`, all of type 0.
    pub(super) fn roberta(first: (&str, u32), separator: (&str, u32)) -> Self {
        let special = |(text, id): (&str, u32)| Part::Special(text.to_owned(), id);
        let parts =
            [special(first), Part::Query, special(separator), special(separator), Part::Document, special(separator)];
        Self(parts.into_iter().map(|part| Piece { part, type_id: 0 }).collect())
    }

    /// Reads a post-processor; `None` if it is of another kind.
    pub(super) fn read<'v>(processor: &'v Value) -> Option<Self> {
        let special = |pair: &'v Value| {
            let id = u32::try_from(pair[1].as_u64()?).ok()?;
            Some((pair[0].as_str()?, id))
        };
        match processor["type"].as_str() {
            Some("RobertaProcessing") => Some(Self::roberta(special(&processor["cls"])?, special(&processor["sep"])?)),
            Some("BertProcessing") => Some(Self::bert(special(&processor["cls"])?, special(&processor["sep"])?)),
            Some("TemplateProcessing") => {
                let pieces = processor["pair"].as_array()?.iter();
                pieces.map(|piece| Piece::read(piece, &processor["special_tokens"])).collect::<Option<_>>().map(Self)
            }
            None if processor.is_null() => {
                let pieces = [(Part::Query, 0), (Part::Document, 1)];
                Some(Self(pieces.map(|(part, type_id)| Piece { part, type_id }).to_vec()))
            }
            _ => None,
        }
    }

    /// The post-processor that makes such pairs. It is never asked for a single text; that is the query's part.
    pub(super) fn to_json(&self) -> Value {
        let pair: Vec<Value> = self.0.iter().map(Piece::to_json).collect();
        let until_document = self.0.iter().take_while(|piece| piece.part != Part::Document);
        let single: Vec<Value> = until_document.map(Piece::to_json).collect();
        let mut tokens = serde_json::Map::new();
        for piece in &self.0 {
            if let Part::Special(text, id) = &piece.part {
                tokens.insert(text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] }));
            }
        }
        json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens })
    }
}

impl Piece {
    fn read(piece: &Value, tokens: &Value) -> Option<Self> {
        let type_id = |piece: &Value| u32::try_from(piece["type_id"].as_u64()?).ok();
        let (special, sequence) = (&piece["SpecialToken"], &piece["Sequence"]);
        if let Some(name) = special["id"].as_str() {
            let [id] = tokens[name]["ids"].as_array()?.as_slice() else { return None };
            let id = u32::try_from(id.as_u64()?).ok()?;
            return Some(Self { part: Part::Special(name.to_owned(), id), type_id: type_id(special)? });
        }
        let part = match sequence["id"].as_str()? {
            "A" => Part::Query,
            "B" => Part::Document,
            _ => return None,
        };
        Some(Self { part, type_id: type_id(sequence)? })
    }

    fn to_json(&self) -> Value {
        let Self { part, type_id } = self;
        match part {
            Part::Query => json!({ "Sequence": { "id": "A", "type_id": type_id } }),
            Part::Document => json!({ "Sequence": { "id": "B", "type_id": type_id } }),
            Part::Special(text, _) => json!({ "SpecialToken": { "id": text, "type_id": type_id } }),
        }
    }
}

/// Makes a post-processor give every token the type 0. Returns whether that changed it; `None` if its kind is not
/// known.
pub(super) fn without_types(processor: &mut Value) -> Option<bool> {
    match processor["type"].as_str() {
        Some("RobertaProcessing") => Some(false),
        Some("Sequence") => {
            let parts = processor["processors"].as_array_mut()?;
            let mut known = parts.iter_mut().filter_map(without_types);
            known.next()
        }
        _ => {
            let mut template = PairTemplate::read(processor)?;
            let is_changed = template.0.iter().any(|piece| piece.type_id != 0);
            if is_changed {
                template.0.iter_mut().for_each(|piece| piece.type_id = 0);
                *processor = template.to_json();
            }
            Some(is_changed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_comes_back_as_it_was_written() {
        let template = PairTemplate::bert(("[CLS]", 2), ("[SEP]", 3));
        assert_eq!(PairTemplate::read(&template.to_json()), Some(template.clone()));
        let processing = json!({ "type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3] });
        assert_eq!(PairTemplate::read(&processing), Some(template));
    }

    #[test]
    fn token_types_are_dropped_once() {
        let mut processor = json!({ "type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3] });
        assert_eq!(without_types(&mut processor), Some(true));
        assert_eq!(without_types(&mut processor), Some(false));
        assert_eq!(without_types(&mut json!({ "type": "ByteLevel" })), None);
    }
}
