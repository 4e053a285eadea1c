//! The queue without threads: properties under arbitrary traffic, and shares under saturation.

use std::collections::HashMap;

use assay_kernels::Row;
use proptest::prelude::*;
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;

const MAX_BATCH_TOKENS: usize = 64;

type Answer = Result<Scored, ScoreError>;

fn account(tenant: &str, weight: u32) -> Account {
    Account { tenant: tenant.into(), weight, max_queued_tokens: 1 << 20 }
}

/// Rows of the given lengths; every id of a row is `first + row`, so that numbers can be told apart.
fn rows(first: u32, lengths: &[usize]) -> PackedBatch {
    let mut batch = PackedBatch::default();
    for (row, &length) in lengths.iter().enumerate() {
        let ids = vec![first + row as u32; length];
        batch.push(Row { ids: &ids, second_segment: length }).unwrap();
    }
    batch
}

/// What an engine would answer: each row's first id.
fn compute(plan: &BatchPlan) -> Vec<f32> {
    plan.batch.iter().map(|row| row.ids[0] as f32).collect()
}

fn admit(queue: &mut Queue, account: &Account, rows: PackedBatch) -> Result<(RequestId, Receiver<Answer>), ScoreError> {
    admit_until(queue, account, rows, None)
}

fn admit_until(
    queue: &mut Queue,
    account: &Account,
    rows: PackedBatch,
    deadline: Option<Instant>,
) -> Result<(RequestId, Receiver<Answer>), ScoreError> {
    let (reply, answer) = oneshot::channel();
    let arrival = Arrival { account, rows, deadline, reply, now: Instant::now(), tokens_per_s: 1_000.0 };
    Ok((queue.admit(arrival)?, answer))
}

fn finish_all(queue: &mut Queue) {
    while let Some(plan) = queue.next_batch(Instant::now()) {
        queue.complete(&plan, &compute(&plan), Instant::now());
    }
}

#[test]
fn under_saturation_each_tenant_gets_tokens_by_its_weight() {
    // Rows of different lengths, so that counting rows instead of tokens would be found out.
    let tenants = [("light", 1, 7), ("middle", 2, 31), ("heavy", 5, 13), ("as heavy", 5, 64)];
    let mut queue = Queue::new(MAX_BATCH_TOKENS, 1 << 24);
    let mut answers = Vec::new();
    for (tenant, weight, length) in tenants {
        for _ in 0..40 {
            let lengths = vec![length; 20_000 / length];
            answers.push(admit(&mut queue, &account(tenant, weight), rows(0, &lengths)).unwrap());
        }
    }
    let mut tokens: HashMap<usize, usize> = HashMap::new();
    for _ in 0..8_000 {
        let plan = queue.next_batch(Instant::now()).unwrap();
        for row in plan.batch.iter() {
            *tokens.entry(row.ids.len()).or_default() += row.ids.len();
        }
        queue.complete(&plan, &compute(&plan), Instant::now());
    }
    let all: usize = tokens.values().sum();
    for (tenant, weight, length) in tenants {
        let (share, expected) = (tokens[&length] as f64 / all as f64, f64::from(weight) / 13.0);
        assert!((share / expected - 1.0).abs() < 0.05, "{tenant} got {share:.4}, its weight is {expected:.4}");
    }
}

#[test]
fn a_batch_mixes_tenants() {
    let mut queue = Queue::new(2_048, 1 << 20);
    let _first = admit(&mut queue, &account("first", 1), rows(0, &[100; 100])).unwrap();
    let _second = admit(&mut queue, &account("second", 1), rows(1_000, &[100; 100])).unwrap();
    let plan = queue.next_batch(Instant::now()).unwrap();
    let of_second = plan.batch.iter().filter(|row| row.ids[0] >= 1_000).count();
    assert!((8..=12).contains(&of_second), "{of_second} of {} rows are the second tenant's", plan.batch.rows());
}

#[test]
fn a_short_request_does_not_wait_for_a_long_one_of_the_same_tenant() {
    let mut queue = Queue::new(512, 1 << 20);
    let tenant = account("tenant", 1);
    let _long = admit(&mut queue, &tenant, rows(0, &[64; 1_000])).unwrap();
    let (_, mut short) = admit(&mut queue, &tenant, rows(5_000, &[64])).unwrap();
    for batch in 0.. {
        assert!(batch < 6, "the short request still waits after {batch} batches");
        let plan = queue.next_batch(Instant::now()).unwrap();
        queue.complete(&plan, &compute(&plan), Instant::now());
        if short.try_recv().is_ok() {
            break;
        }
    }
}

#[test]
fn a_tenant_with_the_least_weight_is_served_beside_one_with_the_most() {
    let mut queue = Queue::new(512, 1 << 30);
    let (_, mut answer) = admit(&mut queue, &account("least", 1), rows(7, &[512])).unwrap();
    let _flood = admit(&mut queue, &account("most", 1_000), rows(0, &vec![512; 2_000])).unwrap();
    for _ in 0..1_100 {
        let plan = queue.next_batch(Instant::now()).unwrap();
        queue.complete(&plan, &compute(&plan), Instant::now());
    }
    assert_eq!(answer.try_recv().unwrap().unwrap().outputs, [7.0]);
}

#[test]
fn a_full_queue_refuses_the_whole_request_and_says_when_to_return() {
    let mut queue = Queue::new(MAX_BATCH_TOKENS, 1_000);
    let busy = Account { max_queued_tokens: 100, ..account("busy", 1) };
    let _waiting = admit(&mut queue, &busy, rows(0, &[10; 9])).unwrap();
    let refused = admit(&mut queue, &busy, rows(0, &[10, 10])).unwrap_err();
    assert_eq!(refused, ScoreError::Overloaded { retry_after: Duration::from_millis(10) });
    assert_eq!(queue.waiting_tokens_of("busy"), 90);
    let too_large = admit(&mut queue, &busy, rows(0, &[101])).unwrap_err();
    assert_eq!(too_large, ScoreError::TooLarge { requested: 101, allowed: 100 });
    // Neighbours have their own room, until nobody has any.
    let _other = admit(&mut queue, &account("other", 1), rows(0, &[100; 9])).unwrap();
    assert!(matches!(admit(&mut queue, &account("third", 1), rows(0, &[11])), Err(ScoreError::Overloaded { .. })));
    finish_all(&mut queue);
    assert_eq!(queue.waiting_tokens, 0);
    assert!(admit(&mut queue, &account("third", 1), rows(0, &[11])).is_ok());
}

#[test]
fn a_late_request_costs_nothing_and_is_told_so() {
    let mut queue = Queue::new(MAX_BATCH_TOKENS, 1_000);
    let now = Instant::now();
    let (_, mut late) = admit_until(&mut queue, &account("a", 1), rows(0, &[5]), Some(now)).unwrap();
    let (_, mut early) =
        admit_until(&mut queue, &account("a", 1), rows(9, &[5]), Some(now + Duration::from_secs(60))).unwrap();
    let plan = queue.next_batch(now).unwrap();
    assert_eq!(plan.batch.tokens(), 5);
    queue.complete(&plan, &compute(&plan), now);
    assert_eq!(late.try_recv().unwrap(), Err(ScoreError::DeadlineExceeded));
    assert_eq!(early.try_recv().unwrap().unwrap().outputs, [9.0]);
}

#[test]
fn late_requests_do_not_keep_others_out() {
    let mut queue = Queue::new(MAX_BATCH_TOKENS, 100);
    let _late = admit_until(&mut queue, &account("a", 1), rows(0, &[90]), Some(Instant::now())).unwrap();
    assert!(admit(&mut queue, &account("b", 1), rows(0, &[90])).is_ok());
}

#[test]
fn a_request_whose_caller_has_gone_costs_nothing() {
    let mut queue = Queue::new(MAX_BATCH_TOKENS, 1_000);
    let (id, answer) = admit(&mut queue, &account("a", 1), rows(0, &[5; 100])).unwrap();
    let plan = queue.next_batch(Instant::now()).unwrap();
    queue.cancel(id);
    assert_eq!(queue.waiting_tokens, 0);
    queue.complete(&plan, &compute(&plan), Instant::now());
    drop(answer);
    let (_, answer) = admit(&mut queue, &account("a", 1), rows(0, &[5; 100])).unwrap();
    drop(answer);
    assert!(queue.next_batch(Instant::now()).is_none());
    assert!(queue.jobs.is_empty());
}

#[test]
fn a_failed_batch_fails_its_requests_only() {
    let mut queue = Queue::new(10, 1_000);
    let (_, mut hit) = admit(&mut queue, &account("a", 1), rows(0, &[10, 10])).unwrap();
    let first = queue.next_batch(Instant::now()).unwrap();
    let (_, mut spared) = admit(&mut queue, &account("b", 1), rows(7, &[10])).unwrap();
    let error = ScoreError::Engine("lost".to_owned());
    queue.fail(&first, &error);
    assert_eq!(hit.try_recv().unwrap(), Err(error));
    finish_all(&mut queue);
    assert_eq!(spared.try_recv().unwrap().unwrap().outputs, [7.0]);
    assert!(queue.jobs.is_empty() && queue.waiting_tokens == 0);
}

/// One step of arbitrary traffic.
#[derive(Debug, Clone)]
enum Step {
    Admit { tenant: usize, weight: u32, lengths: Vec<usize> },
    Dispatch,
    Finish,
    Fail,
    Cancel(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let lengths = prop::collection::vec(1_usize..=MAX_BATCH_TOKENS, 1..12);
    prop_oneof![
        4 => (0_usize..5, 1_u32..=1_000, lengths)
            .prop_map(|(tenant, weight, lengths)| Step::Admit { tenant, weight, lengths }),
        4 => Just(Step::Dispatch),
        4 => Just(Step::Finish),
        1 => Just(Step::Fail),
        1 => any::<usize>().prop_map(Step::Cancel),
    ]
}

proptest! {
    #[test]
    fn every_admitted_request_is_answered_once_with_its_own_numbers_in_order(steps in prop::collection::vec(step(), 1..150)) {
        let mut queue = Queue::new(MAX_BATCH_TOKENS, 1_500);
        let mut in_flight = std::collections::VecDeque::new();
        let mut open = Vec::new();
        let mut first = 0;
        for step in steps {
            match step {
                Step::Admit { tenant, weight, lengths } => {
                    let account = account(["a", "b", "c", "d", "e"][tenant], weight);
                    let count = lengths.len() as u32;
                    if let Ok((id, answer)) = admit(&mut queue, &account, rows(first, &lengths)) {
                        let expected: Vec<f32> = (first..first + count).map(|id| id as f32).collect();
                        open.push((id, answer, expected));
                        first += count;
                    }
                }
                Step::Dispatch => {
                    if let Some(plan) = queue.next_batch(Instant::now()) {
                        prop_assert!(plan.batch.tokens() <= MAX_BATCH_TOKENS);
                        in_flight.push_back(plan);
                    }
                }
                Step::Finish => if let Some(plan) = in_flight.pop_front() {
                    queue.complete(&plan, &compute(&plan), Instant::now());
                },
                Step::Fail => if let Some(plan) = in_flight.pop_front() {
                    queue.fail(&plan, &ScoreError::Engine("lost".to_owned()));
                },
                Step::Cancel(which) => if !open.is_empty() {
                    let (id, ..) = open.swap_remove(which % open.len());
                    queue.cancel(id);
                },
            }
            let waiting: usize = queue.jobs.values().map(Job::waiting_tokens).sum();
            prop_assert_eq!(queue.waiting_tokens, waiting);
            prop_assert_eq!(queue.waiting_tokens_of.values().sum::<usize>(), waiting);
        }
        for plan in in_flight {
            queue.complete(&plan, &compute(&plan), Instant::now());
        }
        finish_all(&mut queue);
        prop_assert!(queue.jobs.is_empty());
        for (_, mut answer, expected) in open {
            match answer.try_recv() {
                Ok(Ok(scored)) => prop_assert_eq!(scored.outputs, expected),
                Ok(Err(error)) => prop_assert_eq!(error, ScoreError::Engine("lost".to_owned())),
                Err(TryRecvError::Empty | TryRecvError::Closed) => prop_assert!(false, "a request has no answer"),
            }
        }
    }
}
