//! The scheduler's thread: faults of the engine, callers that go away, and batches that overlap.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use assay::device::{Account, Scheduler, ScoreError};
use assay_kernels::{
    BatchReport, BertConfig, DeviceMemory, Engine, EngineError, EngineInfo, PackedBatch, Row, Task, Ticket,
};

/// What the engine is to do with its next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Compute,
    FailSubmit,
    FailFinish,
    Panic,
    LoseOutputs,
}

/// An engine that does as it is told, one batch at a time, and answers each row's first id.
#[derive(Debug)]
struct Puppet {
    info: EngineInfo,
    config: BertConfig,
    plans: Mutex<Receiver<Plan>>,
    /// Tokens of each batch, as it is submitted.
    submitted: Sender<usize>,
    in_flight: Vec<(u64, Plan, Vec<f32>)>,
    next: u64,
    max_in_flight: usize,
}

struct Strings {
    plans: Sender<Plan>,
    submitted: Receiver<usize>,
    scheduler: Arc<Scheduler>,
}

fn puppet(max_in_flight: usize) -> Strings {
    let config = BertConfig {
        vocab_size: 1_000,
        hidden_size: 4,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        intermediate_size: 4,
        max_position_embeddings: 16,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        task: Task::CrossEncoder,
        outputs: 1,
    };
    let (plans, receiver) = channel();
    let (sender, submitted) = channel();
    let info = EngineInfo { name: "puppet", device: String::new(), precision: "f32", threads: 0 };
    let engine = Puppet {
        info,
        config,
        plans: Mutex::new(receiver),
        submitted: sender,
        in_flight: Vec::new(),
        next: 0,
        max_in_flight,
    };
    Strings { plans, submitted, scheduler: Arc::new(Scheduler::start(Box::new(engine), 1_000).unwrap()) }
}

impl Engine for Puppet {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn config(&self) -> &BertConfig {
        &self.config
    }

    fn max_batch_tokens(&self) -> usize {
        16
    }

    fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory::default()
    }

    fn submit(&mut self, batch: &PackedBatch) -> Result<Ticket, EngineError> {
        // Nobody listens any more where a test has what it wanted.
        let _ = self.submitted.send(batch.tokens());
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
        Ok(BatchReport::default())
    }
}

impl Puppet {
    fn plan(&self) -> Plan {
        self.plans.lock().unwrap().recv().unwrap_or(Plan::Compute)
    }
}

fn rows(ids: &[u32]) -> PackedBatch {
    let mut batch = PackedBatch::default();
    for &id in ids {
        batch.push(Row { ids: &[id; 8], second_segment: 8 }).unwrap();
    }
    batch
}

type Answer = tokio::task::JoinHandle<Result<Vec<f32>, ScoreError>>;

fn score(scheduler: &Arc<Scheduler>, ids: &[u32], deadline: Option<Instant>) -> Answer {
    let (scheduler, rows) = (Arc::clone(scheduler), rows(ids));
    tokio::spawn(async move { Ok(scheduler.score(rows, &Account::default(), deadline).await?.outputs) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_engine_fails_its_batch_only_and_the_engine_goes_on() {
    for (plan, message) in [
        (Plan::FailSubmit, "unplugged"),
        (Plan::FailFinish, "unplugged"),
        (Plan::Panic, "the engine panicked"),
        (Plan::LoseOutputs, "lost some of its outputs"),
    ] {
        let Strings { plans, submitted, scheduler } = puppet(1);
        let hit = score(&scheduler, &[1], None);
        assert_eq!(submitted.recv(), Ok(8));
        // Waits in the queue while the first batch is on the device.
        let spared = score(&scheduler, &[2], None);
        plans.send(plan).unwrap();
        plans.send(Plan::Compute).unwrap();
        match hit.await.unwrap() {
            Err(ScoreError::Engine(said)) => assert!(said.contains(message), "{said:?} lacks {message:?}"),
            other => panic!("{plan:?}: {other:?}"),
        }
        assert_eq!(spared.await.unwrap(), Ok(vec![2.0]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_batch_is_on_the_device_before_the_first_is_finished() {
    let Strings { plans, submitted, scheduler } = puppet(2);
    let answer = score(&scheduler, &[1, 2, 3, 4, 5, 6], None);
    assert_eq!((submitted.recv(), submitted.recv()), (Ok(16), Ok(16)));
    assert!(submitted.try_recv().is_err(), "a third batch was submitted where two may be");
    plans.send(Plan::Compute).unwrap();
    assert_eq!(submitted.recv(), Ok(16));
    drop(plans);
    assert_eq!(answer.await.unwrap(), Ok(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_gives_its_room_back_at_once() {
    let Strings { plans, submitted, scheduler } = puppet(1);
    let first = score(&scheduler, &[1], None);
    assert_eq!(submitted.recv(), Ok(8));
    // Nearly all that may wait; admitted when the task has run far enough for its tokens to show.
    let gone = score(&scheduler, &[9; 124], None);
    while scheduler.waiting_tokens_of("") == 0 {
        tokio::task::yield_now().await;
    }
    let refused = score(&scheduler, &[2, 3], None).await.unwrap();
    assert!(matches!(refused, Err(ScoreError::Overloaded { .. })), "{refused:?}");
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(scheduler.waiting_tokens_of(""), 0);
    let second = score(&scheduler, &[2, 3], None);
    drop(plans);
    assert_eq!(first.await.unwrap(), Ok(vec![1.0]));
    assert_eq!(second.await.unwrap(), Ok(vec![2.0, 3.0]));
    assert_eq!(submitted.iter().take(1).sum::<usize>(), 16, "rows of the caller that went away were computed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_past_their_deadline_are_not_computed() {
    let Strings { plans, submitted, scheduler } = puppet(1);
    let first = score(&scheduler, &[1], None);
    assert_eq!(submitted.recv(), Ok(8));
    let late = score(&scheduler, &[2], Some(Instant::now() - Duration::from_millis(1)));
    while scheduler.waiting_tokens_of("") == 0 {
        tokio::task::yield_now().await;
    }
    drop(plans);
    assert_eq!(first.await.unwrap(), Ok(vec![1.0]));
    assert_eq!(late.await.unwrap(), Err(ScoreError::DeadlineExceeded));
    drop(scheduler);
    assert_eq!(submitted.iter().count(), 0, "the late rows were computed");
}
