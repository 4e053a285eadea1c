//! Tests of the queue without threads: properties under arbitrary traffic, and shares of device time under saturation.
//! One file, because both drive the same queue with the same made-up traffic.

use assay_kernels::{PackedBatch, Row, TokenTypes};
use proptest::prelude::*;
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;

const MAX_BATCH_TOKENS: usize = 64;

/// A model that accepts every row in these tests.
const SHAPE: RowShape =
    RowShape { vocab_size: usize::MAX, max_tokens: usize::MAX, token_types: TokenTypes::None, outputs: 1 };

/// Work per token of the cheapest model.
const TOKEN_FLOPS: u64 = 1_000_000;

type Answer = Result<Scored, ScoreError>;

fn account(tenant: &str, weight: u32) -> Account {
    Account { tenant: tenant.into(), weight, max_queued_tokens: 1 << 20 }
}

/// A model whose tokens cost a multiple of the cheapest model's, with the given batch size.
fn costs(times: u64, max_batch_tokens: usize) -> ModelCosts {
    let row_flops = (0..=max_batch_tokens.min(512) as u64).map(|tokens| tokens * times * TOKEN_FLOPS).collect();
    ModelCosts { shape: SHAPE, max_batch_tokens, row_flops }
}

/// A queue with one model and the given batch size.
fn queue(max_batch_tokens: usize, max_waiting_tokens: usize) -> (Queue, ModelId) {
    let mut queue = Queue::new(max_waiting_tokens);
    let model = queue.add_model(costs(1, max_batch_tokens));
    (queue, model)
}

/// Rows of the given lengths. All ids of a row are `first + row`, so that results can be told apart.
fn rows(first: u32, lengths: &[usize]) -> CheckedBatch {
    let mut batch = PackedBatch::default();
    for (row, &length) in lengths.iter().enumerate() {
        let ids = vec![first + row as u32; length];
        batch.push(Row { ids: &ids, second_segment: length }).unwrap();
    }
    batch.check(&SHAPE).unwrap()
}

/// A fake engine's result: each row's first id.
fn compute(plan: &BatchPlan) -> Vec<f32> {
    plan.batch.iter().map(|row| row.ids[0] as f32).collect()
}

fn admit(
    queue: &mut Queue,
    model: ModelId,
    account: &Account,
    rows: CheckedBatch,
) -> Result<(RequestId, Receiver<Answer>), ScoreError> {
    admit_until(queue, model, account, rows, None)
}

fn admit_until(
    queue: &mut Queue,
    model: ModelId,
    account: &Account,
    rows: CheckedBatch,
    deadline: Option<Instant>,
) -> Result<(RequestId, Receiver<Answer>), ScoreError> {
    let (reply, answer) = oneshot::channel();
    let arrival = Arrival { account, model, rows, deadline, reply, now: Instant::now(), visit: None };
    Ok((queue.admit(arrival)?, answer))
}

fn complete(queue: &mut Queue, plan: &BatchPlan) {
    let took = Duration::from_secs_f64(plan.flops as f64 * 1e-11);
    queue.complete(plan, &compute(plan), took, Instant::now());
}

fn finish_all(queue: &mut Queue) {
    while let Some(plan) = queue.next_batch(Instant::now()) {
        complete(queue, &plan);
    }
}

/// The load of a tenant of a [`Saturated`] queue: endless rows of one length per model.
#[derive(Debug, Clone)]
struct Asking {
    weight: u32,
    /// Models and lengths of rows.
    models: Vec<(usize, usize)>,
}

/// A queue whose tenants always have waiting rows, and a device with a speed per model.
struct Saturated {
    queue: Queue,
    /// Seconds per floating-point operation.
    models: Vec<(ModelId, f64)>,
    tenants: Vec<Asking>,
    answers: Vec<Receiver<Answer>>,
    device_s: Vec<f64>,
}

impl Saturated {
    /// Models by cost per token and slowdown relative to the others.
    fn new(models: &[(u64, f64)], tenants: Vec<Asking>) -> Self {
        let mut queue = Queue::new(1 << 30);
        let models = models.iter().map(|&(times, slower)| {
            let model = queue.add_model(costs(times, MAX_BATCH_TOKENS));
            (model, slower * 2e-11)
        });
        let (models, device_s) = (models.collect(), vec![0.0; tenants.len()]);
        Self { queue, models, tenants, answers: Vec::new(), device_s }
    }

    fn top_up(&mut self) {
        for (number, tenant) in self.tenants.iter().enumerate() {
            for &(model, length) in &tenant.models {
                let model = self.models[model].0;
                let waiting: usize = self
                    .queue
                    .jobs
                    .values()
                    .filter(|job| job.model == model)
                    .filter(|job| *job.tenant == *number.to_string())
                    .map(Job::waiting_tokens)
                    .sum();
                if waiting < 4 * MAX_BATCH_TOKENS {
                    let account = account(&number.to_string(), tenant.weight);
                    let rows = rows(0, &vec![length; 1 + 1_000 / length]);
                    self.answers.push(admit(&mut self.queue, model, &account, rows).unwrap().1);
                }
            }
        }
        self.answers.retain_mut(|answer| answer.try_recv().is_err());
    }

    /// Computes a batch and returns its model.
    fn batch(&mut self) -> BatchPlan {
        self.top_up();
        let plan = self.queue.next_batch(Instant::now()).unwrap();
        let (_, s_per_flop) = self.models[plan.model.0 as usize];
        let took = plan.flops as f64 * s_per_flop;
        for (tenant, share) in plan.shares() {
            self.device_s[tenant.parse::<usize>().unwrap()] += share * took;
        }
        self.queue.complete(&plan, &compute(&plan), Duration::from_secs_f64(took), Instant::now());
        plan
    }

    /// Device time of the costliest batch.
    fn full_batch_s(&self) -> f64 {
        let longest = |(model, s_per_flop): &(ModelId, f64)| {
            let costs = &self.queue.models[model].costs;
            costs.flops(MAX_BATCH_TOKENS) as f64 * s_per_flop
        };
        self.models.iter().map(longest).fold(0.0, f64::max)
    }

    /// Runs until the tenant of least weight is due `batches` of the costliest batches. Returns each tenant's device
    /// time relative to its entitlement.
    fn shares(&mut self, batches: f64) -> Vec<f64> {
        let weights = self.tenants.iter().map(|tenant| f64::from(tenant.weight));
        let (all, least) = (weights.clone().sum::<f64>(), weights.fold(f64::INFINITY, f64::min));
        let until = batches * self.full_batch_s() * all / least;
        while self.device_s.iter().sum::<f64>() < until {
            self.batch();
        }
        let total: f64 = self.device_s.iter().sum();
        let due = |(tenant, &s): (&Asking, &f64)| s / total / (f64::from(tenant.weight) / all);
        self.tenants.iter().zip(&self.device_s).map(due).collect()
    }

    #[track_caller]
    fn assert_shares(&mut self) {
        // A tenant may be ahead by a batch and behind by another: two in a hundred.
        for (tenant, share) in self.shares(100.0).into_iter().enumerate() {
            assert!((share - 1.0).abs() < 0.05, "tenant {tenant} got {share:.3} times its share: {:?}", self.device_s);
        }
    }
}

fn asking(weight: u32, models: &[(usize, usize)]) -> Asking {
    Asking { weight, models: models.to_vec() }
}

#[test]
fn under_saturation_each_tenant_gets_device_time_by_its_weight() {
    // Rows of different lengths, so that counting rows instead of tokens would fail.
    let tenants = vec![asking(1, &[(0, 7)]), asking(2, &[(0, 31)]), asking(5, &[(0, 13)]), asking(5, &[(0, 64)])];
    Saturated::new(&[(1, 1.0)], tenants).assert_shares();
}

#[test]
fn a_costly_models_token_is_charged_more_than_a_cheap_ones() {
    Saturated::new(&[(1, 1.0), (28, 1.0)], vec![asking(1, &[(0, 16)]), asking(1, &[(1, 16)])]).assert_shares();
}

#[test]
fn turns_follow_measured_time_not_the_estimate() {
    // The second model takes seven times as long as its floating-point operations suggest.
    Saturated::new(&[(1, 1.0), (3, 7.0)], vec![asking(1, &[(0, 16)]), asking(1, &[(1, 16)])]).assert_shares();
}

#[test]
fn a_tenant_with_three_models_has_one_share() {
    let models = [(1, 1.0), (4, 1.0), (28, 1.0)];
    let tenants = vec![asking(1, &[(0, 16), (1, 16), (2, 16)]), asking(1, &[(0, 16)]), asking(1, &[(2, 16)])];
    Saturated::new(&models, tenants).assert_shares();
}

#[test]
fn a_tenants_models_take_turns() {
    let models = [(1, 1.0), (1, 1.0), (28, 1.0)];
    let mut saturated = Saturated::new(&models, vec![asking(1, &[(0, 16), (1, 16), (2, 16)])]);
    let batches: Vec<u64> = (0..6).map(|_| saturated.batch().model.0).collect();
    assert_eq!(batches[..3], batches[3..]);
    assert_eq!(batches[..3].iter().collect::<std::collections::HashSet<_>>().len(), 3, "{batches:?}");
}

#[test]
fn a_tenant_cannot_get_ahead_in_batches_that_others_lead() {
    // The first tenant has a short row of the costly model whenever a batch of it begins. Without a bound, the second
    // would fill each of those batches at the cost of the third, which waits for another model.
    let tenants = vec![asking(1, &[(0, 16)]), asking(1, &[(1, 16)]), asking(1, &[])];
    let mut saturated = Saturated::new(&[(28, 1.0), (1, 1.0)], tenants);
    for _ in 0..4_000 {
        let (_, answer) = admit(&mut saturated.queue, ModelId(0), &account("2", 1), rows(0, &[1])).unwrap();
        saturated.answers.push(answer);
        saturated.batch();
    }
    let [rider, other, _] = saturated.device_s[..] else { unreachable!() };
    assert!((rider / other - 1.0).abs() < 0.05, "{:?}", saturated.device_s);
}

#[test]
fn a_tenants_advance_is_remembered_after_its_last_request() {
    let mut queue = Queue::new(1 << 20);
    let (cheap, costly) = (queue.add_model(costs(1, 64)), queue.add_model(costs(28, 64)));
    let _steady = admit(&mut queue, cheap, &account("steady", 1), rows(0, &[64; 200])).unwrap();
    let (mut of_steady, mut of_bursts, mut answers) = (0, 0, Vec::new());
    for _ in 0..100 {
        // It asks again as soon as it is answered, so it has no waiting rows when its batch begins.
        if queue.waiting_tokens_of("bursts") == 0 {
            answers.push(admit(&mut queue, costly, &account("bursts", 1), rows(0, &[64])).unwrap());
        }
        let plan = queue.next_batch(Instant::now()).unwrap();
        *(if plan.model == cheap { &mut of_steady } else { &mut of_bursts }) += plan.flops;
        complete(&mut queue, &plan);
    }
    let ratio = of_bursts as f64 / of_steady as f64;
    assert!((0.7..1.5).contains(&ratio), "a tenant that is answered at once got {ratio:.2} times the other's time");
}

#[test]
fn idle_time_does_not_accumulate() {
    let (mut queue, model) = queue(64, 1 << 20);
    let _first = admit(&mut queue, model, &account("busy", 1), rows(0, &[64; 400])).unwrap();
    for _ in 0..200 {
        let plan = queue.next_batch(Instant::now()).unwrap();
        complete(&mut queue, &plan);
    }
    let _late = admit(&mut queue, model, &account("late", 1), rows(1_000, &[64; 400])).unwrap();
    let of_late = (0..40).filter(|_| {
        let plan = queue.next_batch(Instant::now()).unwrap();
        complete(&mut queue, &plan);
        plan.batch.row(0).ids[0] >= 1_000
    });
    let of_late = of_late.count();
    assert!((19..=21).contains(&of_late), "{of_late} of 40 batches are the newcomer's");
}

#[test]
fn a_rare_model_waits_for_few_batches_when_others_are_busy() {
    let mut saturated = Saturated::new(
        &[(28, 1.0), (1, 1.0)],
        vec![asking(5, &[(0, 16)]), asking(5, &[(0, 32)]), asking(1, &[(0, 7)])],
    );
    for _ in 0..50 {
        saturated.batch();
    }
    let rare = account("rare", 1);
    let (_, mut answer) = admit(&mut saturated.queue, ModelId(1), &rare, rows(7, &[16])).unwrap();
    let waited = (1..).find(|_| {
        let plan = saturated.queue.next_batch(Instant::now()).unwrap();
        complete(&mut saturated.queue, &plan);
        answer.try_recv().is_ok()
    });
    assert!(waited.unwrap() <= 4, "it waited for {waited:?} batches");
}

#[test]
fn a_batch_has_one_model_and_mixes_tenants() {
    let (mut queue, model) = queue(2_048, 1 << 20);
    let other = queue.add_model(costs(1, 2_048));
    let _first = admit(&mut queue, model, &account("first", 1), rows(0, &[100; 100])).unwrap();
    let _second = admit(&mut queue, model, &account("second", 1), rows(1_000, &[100; 100])).unwrap();
    let _third = admit(&mut queue, other, &account("third", 1), rows(2_000, &[100; 100])).unwrap();
    let plan = queue.next_batch(Instant::now()).unwrap();
    assert_eq!((plan.model, plan.batch.tokens()), (model, 2_000));
    let of_second = plan.batch.iter().filter(|row| row.ids[0] >= 1_000).count();
    assert!((8..=12).contains(&of_second), "{of_second} of {} rows are the second tenant's", plan.batch.rows());
    let plan = queue.next_batch(Instant::now()).unwrap();
    assert_eq!((plan.model, plan.batch.tokens()), (other, 2_000));
}

#[test]
fn a_batch_of_a_costly_model_is_short_in_time() {
    let mut queue = Queue::new(1 << 20);
    let model = queue.add_model(costs(100, 512));
    let _answer = admit(&mut queue, model, &account("a", 1), rows(0, &[50; 20])).unwrap();
    // By the first estimate a row of 50 tokens takes 50 ms.
    assert_eq!(queue.next_batch(Instant::now()).unwrap().batch.rows(), 5);
}

#[test]
fn a_short_request_does_not_wait_for_a_long_one_of_the_same_tenant() {
    let (mut queue, model) = queue(512, 1 << 20);
    let tenant = account("tenant", 1);
    let _long = admit(&mut queue, model, &tenant, rows(0, &[64; 1_000])).unwrap();
    let (_, mut short) = admit(&mut queue, model, &tenant, rows(5_000, &[64])).unwrap();
    for batch in 0.. {
        assert!(batch < 6, "the short request still waits after {batch} batches");
        let plan = queue.next_batch(Instant::now()).unwrap();
        complete(&mut queue, &plan);
        if short.try_recv().is_ok() {
            break;
        }
    }
}

#[test]
fn a_tenant_of_least_weight_is_served_beside_one_of_most_weight() {
    let (mut queue, model) = queue(512, 1 << 30);
    let _flood = admit(&mut queue, model, &account("most", 1_000), rows(0, &vec![512; 2_000])).unwrap();
    let (_, mut answer) = admit(&mut queue, model, &account("least", 1), rows(7, &[512; 2])).unwrap();
    for _ in 0..1_100 {
        let plan = queue.next_batch(Instant::now()).unwrap();
        complete(&mut queue, &plan);
    }
    assert_eq!(answer.try_recv().unwrap().unwrap().outputs, [7.0, 8.0]);
}

#[test]
fn a_full_queue_refuses_the_whole_request_and_says_when_to_retry() {
    let (mut queue, model) = queue(MAX_BATCH_TOKENS, 1_000);
    let busy = Account { max_queued_tokens: 100, ..account("busy", 1) };
    let _waiting = admit(&mut queue, model, &busy, rows(0, &[10; 9])).unwrap();
    // Ten tokens are in the way. At the first estimate a token takes 10 µs; the clamp makes a millisecond of it.
    let refused = admit(&mut queue, model, &busy, rows(0, &[10, 10])).unwrap_err();
    let ScoreError::Overloaded { retry_after } = refused else { panic!("{refused:?}") };
    assert_eq!(retry_after, Duration::from_millis(1));
    assert_eq!(queue.waiting_tokens_of("busy"), 90);
    let too_large = admit(&mut queue, model, &busy, rows(0, &[101])).unwrap_err();
    assert!(matches!(too_large, ScoreError::TooLarge { requested: 101, allowed: 100 }), "{too_large:?}");
    // Neighbours have their own room, until all of it is taken.
    let _other = admit(&mut queue, model, &account("other", 1), rows(0, &[100; 9])).unwrap();
    let refused = admit(&mut queue, model, &account("third", 1), rows(0, &[11]));
    assert!(matches!(refused, Err(ScoreError::Overloaded { .. })), "{refused:?}");
    finish_all(&mut queue);
    assert_eq!(queue.waiting_tokens, 0);
    assert!(admit(&mut queue, model, &account("third", 1), rows(0, &[11])).is_ok());
}

#[test]
fn retry_after_depends_on_the_model_and_the_tenants_share() {
    let mut queue = Queue::new(1 << 20);
    let model = queue.add_model(costs(1_000, MAX_BATCH_TOKENS));
    let busy = Account { max_queued_tokens: 100, ..account("busy", 1) };
    let _waiting = admit(&mut queue, model, &busy, rows(0, &[10; 10])).unwrap();
    let _neighbour = admit(&mut queue, model, &account("other", 3), rows(0, &[10])).unwrap();
    // Ten tokens of 10 ms each, at a quarter of the device.
    match admit(&mut queue, model, &busy, rows(0, &[10])).unwrap_err() {
        ScoreError::Overloaded { retry_after } => assert_eq!(retry_after, Duration::from_millis(400)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_late_request_fails_without_being_computed() {
    let (mut queue, model) = queue(MAX_BATCH_TOKENS, 1_000);
    let now = Instant::now();
    let (_, mut late) = admit_until(&mut queue, model, &account("a", 1), rows(0, &[5]), Some(now)).unwrap();
    let later = Some(now + Duration::from_secs(60));
    let (_, mut early) = admit_until(&mut queue, model, &account("a", 1), rows(9, &[5]), later).unwrap();
    let plan = queue.next_batch(now).unwrap();
    assert_eq!(plan.batch.tokens(), 5);
    complete(&mut queue, &plan);
    assert!(matches!(late.try_recv().unwrap(), Err(ScoreError::DeadlineExceeded)));
    assert_eq!(early.try_recv().unwrap().unwrap().outputs, [9.0]);
}

#[test]
fn late_requests_do_not_block_others() {
    let (mut queue, model) = queue(MAX_BATCH_TOKENS, 100);
    let _late = admit_until(&mut queue, model, &account("a", 1), rows(0, &[90]), Some(Instant::now())).unwrap();
    assert!(admit(&mut queue, model, &account("b", 1), rows(0, &[90])).is_ok());
}

#[test]
fn an_abandoned_request_is_not_computed() {
    let (mut queue, model) = queue(MAX_BATCH_TOKENS, 1_000);
    let (id, answer) = admit(&mut queue, model, &account("a", 1), rows(0, &[5; 100])).unwrap();
    let plan = queue.next_batch(Instant::now()).unwrap();
    queue.cancel(id);
    assert_eq!(queue.waiting_tokens, 0);
    complete(&mut queue, &plan);
    drop(answer);
    let (_, answer) = admit(&mut queue, model, &account("a", 1), rows(0, &[5; 100])).unwrap();
    drop(answer);
    assert!(queue.next_batch(Instant::now()).is_none());
    assert!(queue.jobs.is_empty());
}

#[test]
fn a_failed_batch_fails_only_its_requests() {
    let (mut queue, model) = queue(10, 1_000);
    let (_, mut hit) = admit(&mut queue, model, &account("a", 1), rows(0, &[10, 10])).unwrap();
    let first = queue.next_batch(Instant::now()).unwrap();
    let (_, mut spared) = admit(&mut queue, model, &account("b", 1), rows(7, &[10])).unwrap();
    queue.fail(&first, &ScoreError::Device(DeviceFault::Panicked));
    assert!(matches!(hit.try_recv().unwrap(), Err(ScoreError::Device(DeviceFault::Panicked))));
    finish_all(&mut queue);
    assert_eq!(spared.try_recv().unwrap().unwrap().outputs, [7.0]);
    assert!(queue.jobs.is_empty() && queue.waiting_tokens == 0);
}

#[test]
fn removing_a_model_fails_only_its_own_requests() {
    let (mut queue, gone) = queue(MAX_BATCH_TOKENS, 1_000);
    let stays = queue.add_model(costs(1, MAX_BATCH_TOKENS));
    let (_, mut of_gone) = admit(&mut queue, gone, &account("a", 1), rows(0, &[5])).unwrap();
    let (_, mut of_stays) = admit(&mut queue, stays, &account("a", 1), rows(7, &[5])).unwrap();
    queue.remove_model(gone);
    assert!(matches!(of_gone.try_recv().unwrap(), Err(ScoreError::Device(DeviceFault::Unloaded))));
    let refused = admit(&mut queue, gone, &account("a", 1), rows(0, &[5]));
    assert!(matches!(refused, Err(ScoreError::Device(DeviceFault::Unloaded))), "{refused:?}");
    finish_all(&mut queue);
    assert_eq!(of_stays.try_recv().unwrap().unwrap().outputs, [7.0]);
}

#[test]
fn rows_checked_for_another_model_are_refused() {
    let (mut queue, model) = queue(MAX_BATCH_TOKENS, 1_000);
    let rows = rows(0, &[5]).into_rows().check(&RowShape { outputs: 2, ..SHAPE }).unwrap();
    let refused = admit(&mut queue, model, &account("a", 1), rows).unwrap_err();
    assert!(refused.to_string().contains("checked for"), "{refused}");
}

/// One step of arbitrary traffic.
#[derive(Debug, Clone)]
enum Step {
    Admit { tenant: usize, weight: u32, model: usize, lengths: Vec<usize> },
    Dispatch,
    Finish,
    Fail,
    Cancel(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let lengths = prop::collection::vec(1_usize..=MAX_BATCH_TOKENS, 1..12);
    prop_oneof![
        4 => (0_usize..5, 1_u32..=1_000, 0_usize..3, lengths)
            .prop_map(|(tenant, weight, model, lengths)| Step::Admit { tenant, weight, model, lengths }),
        4 => Just(Step::Dispatch),
        4 => Just(Step::Finish),
        1 => Just(Step::Fail),
        1 => any::<usize>().prop_map(Step::Cancel),
    ]
}

fn any_tenants() -> impl Strategy<Value = Vec<Asking>> {
    let models = prop::collection::vec((0_usize..3, 1_usize..=MAX_BATCH_TOKENS), 1..4);
    prop::collection::vec((1_u32..=4, models).prop_map(|(weight, models)| Asking { weight, models }), 2..5)
}

proptest! {
    #[test]
    fn every_admitted_request_is_answered_once_with_its_own_numbers_in_order(steps in prop::collection::vec(step(), 1..150)) {
        let mut queue = Queue::new(1_500);
        let models = [1, 5, 300].map(|times| queue.add_model(costs(times, MAX_BATCH_TOKENS)));
        let mut in_flight = std::collections::VecDeque::new();
        let mut open = Vec::new();
        let mut first = 0;
        for step in steps {
            match step {
                Step::Admit { tenant, weight, model, lengths } => {
                    let account = account(["a", "b", "c", "d", "e"][tenant], weight);
                    let count = lengths.len() as u32;
                    if let Ok((id, answer)) = admit(&mut queue, models[model], &account, rows(first, &lengths)) {
                        let expected: Vec<f32> = (first..first + count).map(|id| id as f32).collect();
                        open.push((id, answer, expected));
                        first += count;
                    }
                }
                Step::Dispatch => {
                    let waiting = queue.waiting_tokens;
                    match queue.next_batch(Instant::now()) {
                        Some(plan) => {
                            prop_assert!(plan.batch.tokens() <= MAX_BATCH_TOKENS);
                            let of_model = |part: &Part| queue.jobs[&part.request].model == plan.model;
                            prop_assert!(plan.parts.iter().all(of_model), "a batch has rows of two models");
                            in_flight.push_back(plan);
                        }
                        None => prop_assert_eq!(waiting, 0, "the device is idle while rows wait"),
                    }
                }
                Step::Finish => if let Some(plan) = in_flight.pop_front() {
                    complete(&mut queue, &plan);
                },
                Step::Fail => if let Some(plan) = in_flight.pop_front() {
                    queue.fail(&plan, &ScoreError::Device(DeviceFault::LostOutputs));
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
            complete(&mut queue, &plan);
        }
        finish_all(&mut queue);
        prop_assert!(queue.jobs.is_empty());
        for (_, mut answer, expected) in open {
            match answer.try_recv() {
                Ok(Ok(scored)) => prop_assert_eq!(scored.outputs, expected),
                Ok(Err(error)) => {
                    let lost = matches!(error, ScoreError::Device(DeviceFault::LostOutputs));
                    prop_assert!(lost, "{:?}", error);
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => prop_assert!(false, "a request has no answer"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_models_tenants_use_each_gets_its_share_of_device_time(
        tenants in any_tenants(), costs in prop::array::uniform3(1_u64..=30), slower in prop::array::uniform3(0.2_f64..5.0)
    ) {
        let models: Vec<(u64, f64)> = costs.into_iter().zip(slower).collect();
        let mut saturated = Saturated::new(&models, tenants.clone());
        let shares = saturated.shares(60.0);
        for share in &shares {
            // A tenant may be ahead by a batch and behind by another: two in sixty.
            prop_assert!((share - 1.0).abs() < 0.05, "{:?} for {:?} of {:?}", shares, tenants, models);
        }
    }
}
