//! Requests that go on until they are stopped: most are answered, some are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Watched;
use crate::clients::post;

/// Connections at once.
const THREADS: usize = 2;

/// A pause after each request, so that the machine has time for what watches.
const PAUSE: Duration = Duration::from_millis(30);

/// The status of those that are sent with a wrong key.
const REFUSED: &str = "401";

/// Each with the status that it must have.
const REQUESTS: [(&str, &str, &str); 6] = [
    (
        "/v2/rerank",
        r#"{"query":"why is the sky blue","documents":["Air scatters blue light.","Bread is baked."]}"#,
        "200",
    ),
    ("/rerank", r#"{"query":"bread","texts":["Bread is baked from flour, water and yeast.","Rain is wet."]}"#, "200"),
    ("/v1/rerank", r#"{"query":"sea","documents":["The sea reflects the sky.","One","Two words","Three"]}"#, "200"),
    ("/v2/rerank", r#"{"query":"sea","documents":["a"],"top_n":"many"}"#, "422"),
    ("/v2/rerank", "no JSON", "400"),
    ("/v2/rerank", "not looked at", REFUSED),
];

/// Threads that ask.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<u64>>>,
}

/// Starts to ask as a tenant.
pub(super) fn start(watched: &Watched, key: &str) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let one = || {
        let (stop, address, key) = (Arc::clone(&stop), watched.address.clone(), key.to_owned());
        std::thread::spawn(move || ask(&address, &key, &stop))
    };
    let threads = (0..THREADS).map(|_| one()).collect();
    Load { stop, threads }
}

impl Load {
    /// Ends the threads, and gives the number of answered requests.
    ///
    /// # Errors
    /// An answer was not as expected.
    pub(super) fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = std::mem::take(&mut self.threads).into_iter().map(|thread| match thread.join() {
            Ok(answered) => answered,
            Err(_) => Ok(0),
        });
        ended.sum()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn ask(address: &str, key: &str, stop: &AtomicBool) -> Result<u64> {
    let mut answered = 0;
    for (path, body, status) in REQUESTS.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = if *status == REFUSED { "assay_wrong" } else { key };
        let answer = post(address, path, key, body)?;
        let head = answer.lines().next().unwrap_or_default();
        ensure!(head.contains(&format!(" {status} ")), "{path} with {body}: {head}, and not {status}");
        answered += u64::from(*status == "200");
        std::thread::sleep(PAUSE);
    }
    Ok(answered)
}
