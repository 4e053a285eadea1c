//! Proves that the host checks rows: sends the default model rows with one fault, which the setting `rows` names.
//!
//! | `rows` | what is sent |
//! | --- | --- |
//! | `good` | two well-formed rows, to tell a fault of the rows from one of the guest |
//! | `none` | no rows, which is no fault: `run` returns no numbers |
//! | `no-offsets` | ids without any offset |
//! | `late-start` | offsets that start at 1 |
//! | `not-monotonic` | offsets that decrease |
//! | `end-past-ids` | offsets that end one past the ids |
//! | `end-before-ids` | offsets that end one before the ids |
//! | `huge-offset` | an offset of 2³² − 1 |
//! | `empty-row` | a row of no tokens |
//! | `too-long` | a row one token longer than the model's longest |
//! | `unknown-id` | an id equal to the vocabulary's size |
//! | `segment-past-row` | a second segment that starts one past the row's length |
//! | `segments-missing` | one entry of `second-segment` for two rows |
//! | `segments-extra` | three entries of `second-segment` for two rows |
//!
//! Passes on the error of `run`, and returns one hit for each number that it computes, so that a host which accepts the
//! rows is noticed. Any other setting fails with `internal`, which no malformed row may.

use assay_bindings::{Error, Guest, Hit, Model, Request, Response, TokenRows, Usage};

struct BadRows;

impl Guest for BadRows {
    fn rerank(request: Request) -> Result<Response, Error> {
        let kind = request.settings.iter().find(|(name, _)| name == "rows").map_or("good", |(_, value)| value.as_str());
        let model = Model::open(None)?;
        let info = model.info();
        let rows = rows_of_kind(kind, info.max_tokens, info.vocabulary_size)?;
        let numbers = model.run(&rows)?;
        let hit = |(index, &score): (usize, &f32)| Hit { index: index as u32, score };
        Ok(Response {
            hits: numbers.iter().enumerate().map(hit).collect(),
            usage: Usage { tokens: rows.ids.len() as u64, rows: rows.second_segment.len() as u32, truncated: 0 },
        })
    }
}

fn rows_of_kind(kind: &str, max_tokens: u32, vocabulary_size: u32) -> Result<TokenRows, Error> {
    // Id 0 is in every vocabulary.
    let mut rows = TokenRows { ids: vec![0; 7], offsets: vec![0, 3, 7], second_segment: vec![2, 4] };
    match kind {
        "good" => {}
        "none" => {
            rows.ids.clear();
            rows.offsets = vec![0];
            rows.second_segment.clear();
        }
        "no-offsets" => rows.offsets.clear(),
        "late-start" => rows.offsets[0] = 1,
        "not-monotonic" => {
            rows.offsets = vec![0, 5, 3, 7];
            rows.second_segment = vec![2, 0, 2];
        }
        "end-past-ids" => rows.offsets[2] = 8,
        "end-before-ids" => rows.offsets[2] = 6,
        "huge-offset" => rows.offsets[2] = u32::MAX,
        "empty-row" => {
            rows.offsets = vec![0, 3, 3, 7];
            rows.second_segment = vec![2, 0, 4];
        }
        "too-long" => {
            rows.ids = vec![0; max_tokens as usize + 1];
            rows.offsets = vec![0, max_tokens + 1];
            rows.second_segment = vec![2];
        }
        "unknown-id" => rows.ids[5] = vocabulary_size,
        "segment-past-row" => rows.second_segment[0] = 4,
        "segments-missing" => rows.second_segment = vec![2],
        "segments-extra" => rows.second_segment = vec![2, 4, 4],
        _ => return Err(Error::Internal(format!("no rows are called {kind:?}"))),
    }
    Ok(rows)
}

assay_bindings::export!(BadRows);
