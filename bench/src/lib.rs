//! Drives guests through the host as production does, and reports what it measured.
//!
//! A [`scenario`] says what to run; [`load`] makes the requests; [`run`] sends them to a [`driver`] at the right time
//! and samples meanwhile; [`report`] turns records into figures and figures into files. [`compare`] and [`history`] read
//! those files again, [`overhead`] takes the path apart layer by layer.
//!
//! The bench uses the host's public interface only: what it measures is what everybody gets.

pub mod compare;
pub mod driver;
pub mod history;
pub mod load;
pub mod machine;
pub mod overhead;
pub mod progress;
pub mod report;
pub mod run;
pub mod scenario;
pub mod stats;
pub mod table;
