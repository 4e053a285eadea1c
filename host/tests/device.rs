//! The device's thread: faults of engines, callers that go away, batches that overlap, models that come and go, and
//! device time by weight.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use assay::device::{Account, ModelId, Scheduler, ScoreError};
use assay_kernels::{
    BatchReport, CheckedBatch, DeviceMemory, Engine, EngineError, EngineInfo, PackedBatch, Row, RowShape, Ticket,
    TokenTypes,
};

/// What an engine is to do with its next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Compute,
    FailSubmit,
    FailFinish,
    Panic,
    LoseOutputs,
}

/// What an engine did.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// A batch of so many tokens.
    Submitted(usize),
    Finished,
    Dropped,
}

/// An engine that does as it is told and answers each row's first id.
#[derive(Debug)]
struct Puppet {
    info: EngineInfo,
    plans: Mutex<Receiver<Plan>>,
    events: Sender<Event>,
    in_flight: Vec<(u64, Plan, Vec<f32>)>,
    next: u64,
    max_in_flight: usize,
    breaks_thread: Arc<AtomicBool>,
    computes: Arc<AtomicBool>,
}

/// A model on a scheduler, computed by a puppet.
struct Strings {
    plans: Sender<Plan>,
    events: Receiver<Event>,
    scheduler: Arc<Scheduler>,
    model: ModelId,
    /// Has the engine panic where the dispatch thread does not expect it.
    breaks_thread: Arc<AtomicBool>,
    /// While it is set, no batch is done.
    computes: Arc<AtomicBool>,
}

const SHAPE: RowShape = RowShape { vocab_size: 1_000, max_tokens: 16, token_types: TokenTypes::None, outputs: 1 };

/// After so long, what a test waits for does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Floating-point operations of a token.
const TOKEN_FLOPS: u64 = 1_000;

fn scheduler() -> Arc<Scheduler> {
    Arc::new(Scheduler::start(1_000).unwrap())
}

fn puppet(max_in_flight: usize) -> Strings {
    puppet_on(&scheduler(), max_in_flight)
}

fn puppet_on(scheduler: &Arc<Scheduler>, max_in_flight: usize) -> Strings {
    let (plans, receiver) = channel();
    let (sender, events) = channel();
    let (breaks_thread, computes) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let engine = Puppet {
        info: EngineInfo { name: "puppet", device: String::new(), precision: "f32", threads: 0 },
        plans: Mutex::new(receiver),
        events: sender,
        in_flight: Vec::new(),
        next: 0,
        max_in_flight,
        breaks_thread: Arc::clone(&breaks_thread),
        computes: Arc::clone(&computes),
    };
    let model = scheduler.add(Box::new(engine));
    Strings { plans, events, scheduler: Arc::clone(scheduler), model, breaks_thread, computes }
}

impl Engine for Puppet {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn shape(&self) -> RowShape {
        SHAPE
    }

    fn row_flops(&self, tokens: usize) -> u64 {
        tokens as u64 * TOKEN_FLOPS
    }

    fn max_batch_tokens(&self) -> usize {
        16
    }

    fn max_in_flight(&self) -> usize {
        assert!(!self.breaks_thread.swap(false, Ordering::Relaxed), "the thread has a bug");
        self.max_in_flight
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory::default()
    }

    fn submit(&mut self, batch: &CheckedBatch) -> Result<Ticket, EngineError> {
        self.tell(Event::Submitted(batch.tokens()));
        // With one batch in flight the plan is awaited here, as an engine that computes in `submit` would.
        let plan = if self.max_in_flight == 1 { self.plan() } else { Plan::Compute };
        match plan {
            Plan::FailSubmit => return Err(EngineError::Device("unplugged".to_owned())),
            Plan::Panic => panic!("the engine has a bug"),
            Plan::Compute | Plan::FailFinish | Plan::LoseOutputs => {}
        }
        self.next += 1;
        self.in_flight.push((self.next, plan, batch.iter().map(|row| row.ids[0] as f32).collect()));
        Ok(Ticket(self.next))
    }

    fn wait(&mut self, _: &Ticket, at_most: Duration) -> bool {
        if self.computes.load(Ordering::Relaxed) {
            std::thread::sleep(at_most);
        }
        !self.computes.load(Ordering::Relaxed)
    }

    fn finish(&mut self, ticket: Ticket, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError> {
        let (oldest, mut plan, mut numbers) = self.in_flight.remove(0);
        assert_eq!(Ticket(oldest), ticket, "tickets are finished in order");
        if self.max_in_flight > 1 {
            plan = self.plan();
        }
        match plan {
            Plan::FailFinish => return Err(EngineError::Device("unplugged".to_owned())),
            Plan::LoseOutputs => drop(numbers.pop()),
            Plan::Compute | Plan::FailSubmit | Plan::Panic => {}
        }
        outputs.extend(numbers);
        self.tell(Event::Finished);
        Ok(BatchReport::default())
    }
}

impl Puppet {
    fn plan(&self) -> Plan {
        self.plans.lock().unwrap().recv().unwrap_or(Plan::Compute)
    }

    fn tell(&self, event: Event) {
        // The receiver is gone once its test has ended.
        let _ = self.events.send(event);
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.tell(Event::Dropped);
    }
}

fn rows(ids: &[u32]) -> CheckedBatch {
    let mut batch = PackedBatch::default();
    for &id in ids {
        batch.push(Row { ids: &[id; 8], second_segment: 8 }).unwrap();
    }
    batch.check(&SHAPE).unwrap()
}

type Answer = tokio::task::JoinHandle<Result<Vec<f32>, ScoreError>>;

impl Strings {
    fn score(&self, ids: &[u32], deadline: Option<Instant>) -> Answer {
        let (scheduler, model, rows) = (Arc::clone(&self.scheduler), self.model, rows(ids));
        tokio::spawn(async move { Ok(scheduler.score(model, rows, &Account::default(), deadline).await?.outputs) })
    }

    /// Waits for the engine's next batch and tells its tokens.
    fn submitted(&self) -> usize {
        match self.events.iter().find(|event| *event != Event::Finished) {
            Some(Event::Submitted(tokens)) => tokens,
            other => panic!("no further batch: {other:?}"),
        }
    }
}

async fn wait_for_tokens(scheduler: &Scheduler) {
    while scheduler.waiting_tokens_of("") == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_an_engine_fails_its_batch_only_and_both_engines_go_on() {
    for (plan, message) in [
        (Plan::FailSubmit, "unplugged"),
        (Plan::FailFinish, "unplugged"),
        (Plan::Panic, "the engine panicked"),
        (Plan::LoseOutputs, "lost some of its outputs"),
    ] {
        let faulty = puppet(1);
        let sound = puppet_on(&faulty.scheduler, 1);
        let hit = faulty.score(&[1], None);
        assert_eq!(faulty.submitted(), 8);
        // Both wait in the queue while the first batch is on the device.
        let (spared, other) = (faulty.score(&[2], None), sound.score(&[3], None));
        faulty.plans.send(plan).unwrap();
        faulty.plans.send(Plan::Compute).unwrap();
        sound.plans.send(Plan::Compute).unwrap();
        match hit.await.unwrap() {
            Err(ScoreError::Device(fault)) => {
                assert!(fault.to_string().contains(message), "{fault} lacks {message:?}");
            }
            other => panic!("{plan:?}: {other:?}"),
        }
        assert_eq!(spared.await.unwrap().unwrap(), [2.0]);
        assert_eq!(other.await.unwrap().unwrap(), [3.0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_dispatch_thread_fails_what_waits_and_the_thread_goes_on() {
    let puppet = puppet(1);
    for plan in [Plan::Compute, Plan::Compute] {
        puppet.plans.send(plan).unwrap();
    }
    assert_eq!(puppet.score(&[1], None).await.unwrap().unwrap(), [1.0]);
    puppet.breaks_thread.store(true, Ordering::Relaxed);
    let hit = puppet.score(&[2], None).await.unwrap();
    assert!(matches!(&hit, Err(ScoreError::Device(fault)) if fault.to_string().contains("panicked")), "{hit:?}");
    assert_eq!(puppet.score(&[3], None).await.unwrap().unwrap(), [3.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_batch_is_on_the_device_before_the_first_is_finished() {
    let puppet = puppet(2);
    let answer = puppet.score(&[1, 2, 3, 4, 5, 6], None);
    assert_eq!((puppet.submitted(), puppet.submitted()), (16, 16));
    assert!(puppet.events.try_recv().is_err(), "a third batch was submitted where two may be");
    puppet.plans.send(Plan::Compute).unwrap();
    assert_eq!(puppet.submitted(), 16);
    drop(puppet.plans);
    assert_eq!(answer.await.unwrap().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_two_engines_are_in_flight_together_and_finish_in_the_order_of_submission() {
    let first = puppet(2);
    let second = puppet_on(&first.scheduler, 2);
    // Two batches of the first engine, so that the second engine's comes while one of them is in flight.
    let answer = first.score(&[1, 1, 1, 1], None);
    assert_eq!((first.submitted(), first.submitted()), (16, 16));
    let later = second.score(&[2, 2], None);
    wait_for_tokens(&first.scheduler).await;
    second.plans.send(Plan::Compute).unwrap();
    first.plans.send(Plan::Compute).unwrap();
    assert_eq!(second.submitted(), 16);
    assert!(second.events.try_recv().is_err(), "the later batch was finished before the earlier one");
    first.plans.send(Plan::Compute).unwrap();
    assert_eq!(answer.await.unwrap().unwrap(), [1.0; 4]);
    assert_eq!(later.await.unwrap().unwrap(), [2.0, 2.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_gives_its_room_back_at_once() {
    let puppet = puppet(1);
    let first = puppet.score(&[1], None);
    assert_eq!(puppet.submitted(), 8);
    // Nearly all that may wait; admitted when the task has run far enough for its tokens to show.
    let gone = puppet.score(&[9; 124], None);
    wait_for_tokens(&puppet.scheduler).await;
    let refused = puppet.score(&[2, 3], None).await.unwrap();
    assert!(matches!(refused, Err(ScoreError::Overloaded { .. })), "{refused:?}");
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(puppet.scheduler.waiting_tokens_of(""), 0);
    let second = puppet.score(&[2, 3], None);
    wait_for_tokens(&puppet.scheduler).await;
    puppet.plans.send(Plan::Compute).unwrap();
    puppet.plans.send(Plan::Compute).unwrap();
    assert_eq!(first.await.unwrap().unwrap(), [1.0]);
    assert_eq!(second.await.unwrap().unwrap(), [2.0, 3.0]);
    assert_eq!(puppet.submitted(), 16, "rows of the caller that went away were computed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_past_their_deadline_are_not_computed() {
    let puppet = puppet(1);
    let first = puppet.score(&[1], None);
    assert_eq!(puppet.submitted(), 8);
    let late = puppet.score(&[2], Some(Instant::now() - Duration::from_millis(1)));
    wait_for_tokens(&puppet.scheduler).await;
    puppet.plans.send(Plan::Compute).unwrap();
    assert_eq!(first.await.unwrap().unwrap(), [1.0]);
    assert!(matches!(late.await.unwrap(), Err(ScoreError::DeadlineExceeded)));
    drop(puppet.scheduler);
    assert_eq!(puppet.events.iter().collect::<Vec<_>>(), [Event::Finished, Event::Dropped], "late rows were computed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_while_a_batch_is_computed_is_submitted_before_that_batch_is_done() {
    let puppet = puppet(2);
    puppet.computes.store(true, Ordering::Relaxed);
    let first = puppet.score(&[1], None);
    assert_eq!(puppet.events.recv_timeout(PATIENCE), Ok(Event::Submitted(8)));
    let second = puppet.score(&[2], None);
    assert_eq!(puppet.events.recv_timeout(PATIENCE), Ok(Event::Submitted(8)), "nothing was submitted in the meantime");
    puppet.computes.store(false, Ordering::Relaxed);
    puppet.plans.send(Plan::Compute).unwrap();
    puppet.plans.send(Plan::Compute).unwrap();
    assert_eq!(first.await.unwrap().unwrap(), [1.0]);
    assert_eq!(second.await.unwrap().unwrap(), [2.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_removed_is_dropped_after_its_batches_in_flight() {
    let gone = puppet(2);
    let stays = puppet_on(&gone.scheduler, 2);
    let answer = gone.score(&[1], None);
    assert_eq!(gone.submitted(), 8);
    let (scheduler, model) = (Arc::clone(&gone.scheduler), gone.model);
    let removed = std::thread::spawn(move || scheduler.remove(model));
    gone.plans.send(Plan::Compute).unwrap();
    assert_eq!(answer.await.unwrap().unwrap(), [1.0]);
    removed.join().unwrap();
    assert_eq!(gone.events.try_iter().collect::<Vec<_>>(), [Event::Finished, Event::Dropped]);
    let refused = gone.score(&[1], None).await.unwrap();
    assert!(matches!(refused, Err(ScoreError::Device(_))), "{refused:?}");
    stays.plans.send(Plan::Compute).unwrap();
    assert_eq!(stays.score(&[2], None).await.unwrap().unwrap(), [2.0]);
}

/// An engine on a simulated device: it computes nothing, says what its batches took, and lets no tenant's rows run out.
#[derive(Debug)]
struct Simulated {
    info: EngineInfo,
    token_flops: u64,
    /// Simulated device time of a floating-point operation.
    s_per_flop: f64,
    saturation: Arc<Saturation>,
    in_flight: std::collections::VecDeque<(usize, BatchReport)>,
    next: u64,
}

/// What keeps a simulated device from being faster than those who ask.
#[derive(Debug)]
struct Saturation {
    scheduler: Weak<Scheduler>,
    tenants: [&'static str; 2],
    over: AtomicBool,
}

impl Saturation {
    fn wait(&self) {
        while !self.over.load(Ordering::Relaxed)
            && let Some(scheduler) = self.scheduler.upgrade()
            && self.tenants.iter().any(|tenant| scheduler.waiting_tokens_of(tenant) == 0)
        {
            std::thread::yield_now();
        }
    }
}

impl Engine for Simulated {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn shape(&self) -> RowShape {
        SHAPE
    }

    fn row_flops(&self, tokens: usize) -> u64 {
        tokens as u64 * self.token_flops
    }

    fn max_batch_tokens(&self) -> usize {
        16
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory::default()
    }

    fn submit(&mut self, batch: &CheckedBatch) -> Result<Ticket, EngineError> {
        self.saturation.wait();
        let useful_flops = batch.tokens() as u64 * self.token_flops;
        let device_time = Some(Duration::from_secs_f64(useful_flops as f64 * self.s_per_flop));
        self.in_flight.push_back((batch.rows(), BatchReport { device_time, useful_flops, ..Default::default() }));
        self.next += 1;
        Ok(Ticket(self.next))
    }

    fn finish(&mut self, _: Ticket, outputs: &mut Vec<f32>) -> Result<BatchReport, EngineError> {
        let (rows, report) = self.in_flight.pop_front().unwrap();
        outputs.resize(rows, 0.0);
        Ok(report)
    }
}

/// Time is simulated. A token of the costly model is twelve times the work, and takes three times as long for its work,
/// so that charging by work alone would be found out. The tolerance is the contract's: a tenant may be ahead by a batch
/// and behind by another, of hundreds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_with_models_of_different_cost_get_equal_device_time() {
    let (tenants, scheduler) = (["cheap", "costly"], scheduler());
    let saturation = Saturation { scheduler: Arc::downgrade(&scheduler), tenants, over: AtomicBool::new(false) };
    let saturation = Arc::new(saturation);
    let models = [(TOKEN_FLOPS, 1e-9), (12 * TOKEN_FLOPS, 3e-9)].map(|(token_flops, s_per_flop)| {
        scheduler.add(Box::new(Simulated {
            info: EngineInfo { name: "simulated", device: String::new(), precision: "f32", threads: 0 },
            token_flops,
            s_per_flop,
            saturation: Arc::clone(&saturation),
            in_flight: Default::default(),
            next: 0,
        }))
    });
    let mut callers = tokio::task::JoinSet::new();
    for (tenant, model) in tenants.into_iter().zip(models) {
        for _ in 0..3 {
            let (scheduler, saturation) = (Arc::clone(&scheduler), Arc::clone(&saturation));
            let account = Account { tenant: tenant.into(), ..Account::default() };
            callers.spawn(async move {
                while !saturation.over.load(Ordering::Relaxed) {
                    scheduler.score(model, rows(&[1; 12]), &account, None).await.unwrap();
                }
            });
        }
    }
    let time = |tenant| scheduler.meter().device_time_of(tenant).as_secs_f64();
    let costliest_batch_s = 16.0 * 12.0 * TOKEN_FLOPS as f64 * 3e-9;
    while time("cheap") + time("costly") < 400.0 * costliest_batch_s {
        tokio::task::yield_now().await;
    }
    let (cheap, costly) = (time("cheap"), time("costly"));
    saturation.over.store(true, Ordering::Relaxed);
    while callers.join_next().await.is_some() {}
    assert!((cheap / costly - 1.0).abs() < 0.05, "{cheap:.6} s against {costly:.6} s of simulated device time");
}
