//! A server's counters in Prometheus' text format.
//!
//! Takes a [`Snapshot`] and writes series; counts nothing and keeps nothing. [`series`] is the table of what there is,
//! [`tei`] has the names that text-embeddings-inference gives the same things, [`writer`] the forms. The only module
//! that names the crate `prometheus_client`.

mod series;
mod tei;
mod writer;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::Registry;

use crate::tenant::Snapshot;
use writer::Writer;

/// The content type of the text.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Writes a snapshot in Prometheus' text format, version 0.0.4.
///
/// # Errors
/// Never, as long as memory is left: the format has a place for every number.
pub fn text(snapshot: Snapshot) -> Result<String, std::fmt::Error> {
    let (mut registry, mut text) = (Registry::default(), String::new());
    registry.register_collector(Box::new(Counters(snapshot)));
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Counters(Snapshot);

impl Collector for Counters {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut writer = Writer::new(encoder);
        series::write(&self.0, &mut writer)?;
        tei::write(&self.0, &mut writer)
    }
}
