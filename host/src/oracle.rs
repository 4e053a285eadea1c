//! What must hold for any bytes from outside: the oracles of the fuzz targets in `fuzz/`, replayed over their corpora by
//! `tests/corpus.rs`. Each panics where something does not hold, and does nothing else.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use assay_kernels::{Model, PackedBatch, checkpoint, families};

use crate::limits::RequestLimits;
use crate::tenant::TenantLimits;
use crate::tenant::admin::AdminRequest;
use crate::{cli, http};

/// Largest number of ids, offsets and segments that [`rows`] makes of its bytes.
const MAX_LIST: usize = 4_096;

/// Rows as they cross the boundary: bytes are three lists of numbers. Rows that are accepted are well-formed, hold every
/// id once, and come out as they went in.
///
/// # Panics
/// Where that does not hold.
pub fn rows(bytes: &[u8]) {
    let mut rest = bytes;
    let [ids, offsets, second_segment] = [(); 3].map(|()| list(&mut rest));
    let Ok(batch) = PackedBatch::new(ids.clone(), offsets, second_segment) else { return };
    assert_eq!(batch.ids(), ids, "ids are kept");
    assert_eq!(batch.iter().map(|row| row.ids.len()).sum::<usize>(), ids.len(), "every id is in one row");
    let mut copy = PackedBatch::default();
    for row in batch.iter() {
        assert!(!row.ids.is_empty(), "no row is empty");
        assert!(row.second_segment <= row.ids.len(), "a second segment begins within its row");
        assert!(copy.push(row).is_ok(), "a row of a batch is accepted again");
    }
    assert!(batch.rows() == 0 || copy == batch, "rows come out as they went in");
}

/// The next list: a length in two bytes, and so many numbers of four bytes, small ones first so that they are often
/// meaningful.
fn list(rest: &mut &[u8]) -> Vec<u32> {
    let Some((length, after)) = rest.split_at_checked(2) else { return Vec::new() };
    let wanted = usize::from(u16::from_le_bytes([length[0], length[1]])).min(MAX_LIST);
    let (numbers, after) = after.split_at(after.len().min(4 * wanted));
    *rest = after;
    numbers.chunks_exact(4).map(|number| u32::from_le_bytes([number[0], number[1], number[2], number[3]])).collect()
}

/// A limits file: what is accepted is within its ranges, and is read again as it was written.
///
/// # Panics
/// Where that does not hold.
pub fn limits(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(limits) = TenantLimits::parse(text) else { return };
    for (limit, value, range) in limits.ranges() {
        assert!(range.contains(&value), "{limit} is {value}");
    }
    assert_eq!(TenantLimits::parse(&limits.to_toml()), Ok(limits), "limits come out as they went in");
}

/// The paths whose bodies [`body`] decodes: one for each way of asking.
const PATHS: [&str; 9] = [
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/jina/v1/rerank",
    "/reranking",
    "/vllm/rerank",
    "/infinity/rerank",
    "/predict",
    "/score",
];

/// A body of the HTTP service: the first byte picks the path, and the rest is the body. What is accepted is within the
/// tenant's limits, and decoded in a bounded number of texts.
///
/// # Panics
/// Where that does not hold.
pub fn body(bytes: &[u8]) {
    let Some((path, body)) = bytes.split_first() else { return };
    let path = PATHS[usize::from(*path) % PATHS.len()];
    let limits = Arc::new(RequestLimits {
        max_documents: 64,
        max_text_bytes: 256,
        max_request_bytes: 1_024,
        ..RequestLimits::default()
    });
    let Some(requests) = http::decode_body(path, body.to_vec(), &limits) else { return };
    let documents: usize = requests.iter().map(|request| request.documents.len()).sum();
    assert!(documents > 0 && documents <= limits.max_documents, "{documents} documents");
    for request in requests {
        assert!(limits.admit(request).is_ok(), "what is accepted is within the limits");
    }
}

/// A line of the admin socket. What is accepted comes out as it went in.
///
/// # Panics
/// Where that does not hold.
pub fn admin(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<AdminRequest>(bytes) else { return };
    let text = serde_json::to_vec(&request).unwrap_or_default();
    assert_eq!(serde_json::from_slice::<AdminRequest>(&text).ok(), Some(request), "requests come out as they went in");
}

/// A server's file of settings. What is accepted is TOML, and is accepted again with a comment at its end.
///
/// # Panics
/// Where that does not hold.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let is_right = cli::config_is_right(text);
    assert_eq!(cli::config_is_right(&format!("{text}\n# the end\n")), is_right, "a comment changes nothing");
    is_right
}

/// A model's files: the configuration up to the first zero byte, the weights after it. What is accepted has the shapes
/// that its configuration says.
///
/// # Panics
/// Where that does not hold, or a temporary directory cannot be written.
pub fn model(bytes: &[u8]) {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let config = &bytes[..end];
    if families::read_config(config).is_err() {
        return;
    }
    let written = tempfile::tempdir().and_then(|dir| {
        write(&dir.path().join(checkpoint::CONFIG_FILE), config)?;
        write(&dir.path().join(checkpoint::WEIGHTS_FILE), bytes.get(end + 1..).unwrap_or_default())?;
        Ok(dir)
    });
    let Ok(dir) = written else { panic!("no temporary directory") };
    if let Ok(Model { architecture, weights }) = checkpoint::load(dir.path(), None) {
        let words = architecture.vocab_size * architecture.embeddings.width;
        let table = &weights.embeddings.word;
        assert_eq!(table.len(), words, "there is a row for every word");
        assert!(table.numbers(0..words).iter().all(|number| number.is_finite()), "weights are finite");
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::File::create(path)?.write_all(bytes)
}
