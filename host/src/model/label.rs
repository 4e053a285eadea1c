//! Labels of a classifier, as people name them: by number, by name, or as the difference of two numbers.

use assay_kernels::checkpoint::RankedLabel;

use super::info::ModelInfo;

/// Most labels that a message lists.
const SHOWN: usize = 10;

/// The label that a text means; `None` if there is no such label, or several have the name.
pub(super) fn parse(text: &str, names: &[String], labels: usize) -> Option<RankedLabel> {
    let number = |text: &str| text.parse().ok().filter(|&label: &usize| label < labels);
    if let Some(label) = number(text).or_else(|| by_name(text, names, labels)) {
        return Some(RankedLabel { label, minus: None });
    }
    let (label, minus) = text.split_once('-')?;
    let (label, minus) = (number(label)?, number(minus)?);
    // A label minus itself is 0 for every pair.
    (label != minus).then_some(RankedLabel { label, minus: Some(minus) })
}

fn by_name(text: &str, names: &[String], labels: usize) -> Option<usize> {
    let named = |is_it: &dyn Fn(&str) -> bool| {
        let mut found = names.iter().take(labels).enumerate().filter(|(_, name)| !name.is_empty() && is_it(name));
        let first = found.next().map(|(label, _)| label);
        first.filter(|_| found.next().is_none())
    };
    named(&|name| name == text).or_else(|| named(&|name| name.eq_ignore_ascii_case(text)))
}

/// Labels by number and name, for messages.
pub(super) fn named(names: &[String], labels: usize) -> String {
    let shown: Vec<String> = (0..labels.min(SHOWN)).map(|label| one(label, names)).collect();
    format!("{}{}", shown.join(", "), if labels > SHOWN { ", …" } else { "" })
}

/// What a model is ranked by, for messages: `2 neutral`, or `1 entailment minus 0 contradiction`.
pub(super) fn ranked_by(ranked: RankedLabel, names: &[String]) -> String {
    match ranked.minus {
        None => one(ranked.label, names),
        Some(minus) => format!("{} minus {}", one(ranked.label, names), one(minus, names)),
    }
}

fn one(label: usize, names: &[String]) -> String {
    match names.get(label).filter(|name| !name.is_empty()) {
        Some(name) => format!("{label} {name:.40}"),
        None => label.to_string(),
    }
}

impl ModelInfo {
    /// The setting `label` as a guest needs it, for a label that a request names. `None`: the guest needs none, as the
    /// model computes this label alone.
    ///
    /// # Errors
    /// The model computes no such label; the error says why, and what to do.
    pub fn label_setting(&self, text: &str) -> Result<Option<String>, String> {
        let asked = parse(text, &self.labels, self.labels.len());
        match (self.label, asked) {
            (Some(chosen), Some(asked)) if chosen == asked => Ok(None),
            (Some(chosen), _) => Err(format!(
                "{text:.100?} is not the label that was chosen when model {} was added, {}: to choose for each request, \
                 add the model again under another name without --label",
                self.name,
                ranked_by(chosen, &self.labels)
            )),
            (None, Some(RankedLabel { label, minus: None })) => Ok(Some(label.to_string())),
            (None, Some(_)) => Err(format!(
                "{text:.100?} is the difference of two labels, which is chosen when a model is added, with `assay model \
                 add --label`"
            )),
            (None, None) => Err(format!("there is no label {text:.100?}: model {} has {}", self.name, self.labels())),
        }
    }

    /// The labels by number and name, for messages.
    #[must_use]
    pub fn labels(&self) -> String {
        match self.labels.len() {
            0 => "none".to_owned(),
            labels => named(&self.labels, labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_number_a_name_or_a_difference() {
        let names = ["no", "Yes", "yes", "maybe", "maybe", ""].map(str::to_owned);
        let label = |text: &str| parse(text, &names, 7).map(|ranked| (ranked.label, ranked.minus));
        for (text, expected) in [
            ("0", Some((0, None))),
            ("6", Some((6, None))),
            ("7", None),
            ("NO", Some((0, None))),
            ("Yes", Some((1, None))),
            ("yes", Some((2, None))),
            // Two labels have these names.
            ("YES", None),
            ("maybe", None),
            ("", None),
            ("1-0", Some((1, Some(0)))),
            ("1-1", None),
            ("1-7", None),
            ("-1", None),
        ] {
            assert_eq!(label(text), expected, "{text:?}");
        }
    }
}
