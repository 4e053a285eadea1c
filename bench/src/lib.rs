//! Drives guests through the host as production does, and reports what it measured.
//!
//! A [`scenario`] says what to run. [`load`] makes the requests. [`run`] sends them to a [`driver`] on time, takes
//! samples, and turns records into figures. [`report`] writes the figures into files. [`compare`] and [`history`] read
//! those files. [`overhead`] measures the layers of a request one by one, [`telemetry`] what watching it costs.
//! [`quality`] measures rankings from relevance judgements.
//!
//! The bench uses only the host's public interface, so it measures what users get.

pub mod compare;
pub mod driver;
pub mod history;
pub mod load;
pub mod machine;
pub mod overhead;
pub mod progress;
pub mod quality;
pub mod report;
pub mod run;
pub mod scenario;
pub mod stats;
pub mod table;
pub mod telemetry;
