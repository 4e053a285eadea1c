//! Assay in a program of one's own: `embed DATA_DIR QUERY DOCUMENT…` ranks the documents as the tenant `acme` does.
//!
//! `host/tests/embed.rs` runs it.

use assay::device::DeviceOptions;
use assay::rerank::Request;
use assay::tenant::TenantLimits;
use assay::{Assay, Tenant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    assay::compile_if_asked();
    let mut arguments = std::env::args().skip(1);
    let (Some(data_dir), Some(query)) = (arguments.next(), arguments.next()) else {
        return Err("usage: embed DATA_DIR QUERY DOCUMENT…".into());
    };
    let documents: Vec<String> = arguments.collect();

    let assay = Assay::builder(data_dir).device(DeviceOptions::default()).open()?;
    let limits = TenantLimits { max_documents: 100, ..TenantLimits::default() };
    assay.deploy("acme", Tenant { limits: Some(limits), ..Tenant::default() })?;
    let request = Request { query, documents: documents.clone(), ..Request::default() };
    for hit in assay.rerank_blocking("acme", request)?.hits {
        println!("{:.4}\t{}", hit.score, documents[hit.index as usize]);
    }
    Ok(())
}
