//! Question: how much longer does a quiet tenant's request take when its neighbour asks for ten times its share?
//!
//! Baseline, in the same run: the neighbour keeps the device busy with one request after the other, which is its share.
//! Then it keeps ten in work. The quiet tenant sends one small request after the other, with pauses, so that each finds
//! the device in another state. Both have the same weight. Rounds alternate, so that both see the same machine.
//! Included: everything from the tenant's gate to the answer.
//!
//! `cargo xtask build && cargo bench --workspace --bench neighbours`; needs the default model (`assay model pull`).

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use assay::device::{Account, Device, DeviceOptions, LoadedModel};
use assay::guest::{Call, CallMeter, CallTerms, Guest, GuestRuntime, Links, Models, Payer, RuntimeOptions};
use assay::limits::RequestLimits;
use common::tenants::{component, demo_model, passages_request};

const ROUNDS: usize = 3;
const REQUESTS_A_ROUND: usize = 60;
const PAUSE: Duration = Duration::from_millis(7);
const NOISY_DOCUMENTS: usize = 32;
const QUIET_DOCUMENTS: usize = 4;

fn main() {
    let Some(stored) = demo_model() else { return };
    let device = Device::open(&DeviceOptions::default()).expect("the device opens");
    let model = device.load(&stored).expect("the model loads");
    let dir = tempfile::tempdir().expect("there is room for compiled code");
    let runtime = GuestRuntime::new(dir.path(), &RuntimeOptions::default()).expect("wasmtime starts");
    let guest = runtime.load_prepared("standard", &component("standard"), model.info());
    let street = Arc::new(Street { guest: guest.expect("the standard guest is prepared"), model });

    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let tokio = tokio.expect("threads start");
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut tokens = [0; 3];
    for _ in 0..ROUNDS {
        for (place, neighbours) in [0, 1, 10].into_iter().enumerate() {
            let (took, noise) = tokio.block_on(Arc::clone(&street).round(neighbours));
            times[place].extend(took);
            tokens[place] += noise;
        }
    }
    let [alone, share, tenfold] = times.map(Percentiles::of);
    println!("quiet tenant: {} requests of {QUIET_DOCUMENTS} documents each", ROUNDS * REQUESTS_A_ROUND);
    println!("alone                        {alone}");
    println!("neighbour at its share       {share}   (neighbour: {} tokens)", tokens[1]);
    println!("neighbour at 10 times it     {tenfold}   (neighbour: {} tokens)", tokens[2]);
    println!("p99 at 10 times over p99 at its share: {:.2}", tenfold.p99.as_secs_f64() / share.p99.as_secs_f64());
}

struct Street {
    guest: Guest,
    model: Arc<LoadedModel>,
}

impl Street {
    /// The quiet tenant's times, and the neighbour's tokens, with so many of the neighbour's requests in work.
    async fn round(self: Arc<Self>, neighbours: usize) -> (Vec<Duration>, u64) {
        let (stop, tokens) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let noise: Vec<_> = (0..neighbours)
            .map(|_| {
                let (street, stop, tokens) = (Arc::clone(&self), Arc::clone(&stop), Arc::clone(&tokens));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        tokens.fetch_add(street.call("noisy", NOISY_DOCUMENTS).await, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let mut times = Vec::new();
        for request in 0..REQUESTS_A_ROUND {
            // The pauses differ, so that requests do not fall into step with batches.
            tokio::time::sleep(PAUSE + Duration::from_micros((request * 997 % 5_000) as u64)).await;
            let start = Instant::now();
            self.call("quiet", QUIET_DOCUMENTS).await;
            times.push(start.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        for neighbour in noise {
            neighbour.await.expect("the neighbour's requests are answered");
        }
        (times, tokens.load(Ordering::Relaxed))
    }

    async fn call(&self, tenant: &str, documents: usize) -> u64 {
        let (limits, models) = (Arc::new(RequestLimits::default()), Models::only(Arc::clone(&self.model)));
        let payer = Payer::of(Account { tenant: tenant.into(), ..Account::default() });
        let meter = Arc::<CallMeter>::default();
        let request = limits.admit(passages_request("why is the sky blue", documents)).expect("the request is small");
        let terms = CallTerms { meter: Arc::clone(&meter), ..CallTerms::default() };
        let call = Call { request, arrived: Instant::now(), models, links: Links::default(), payer, terms };
        let response = self.guest.call(call).await;
        assert_eq!(response.expect("the guest answers").hits.len(), documents);
        meter.cost().tokens
    }
}

struct Percentiles {
    p50: Duration,
    p99: Duration,
}

impl Percentiles {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
        Self { p50: at(50), p99: at(99) }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "p50 {:7.1} ms, p99 {:7.1} ms", ms(self.p50), ms(self.p99))
    }
}
