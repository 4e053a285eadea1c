//! Chains of any shape end, though there is one place at each depth, and one permit of each tenant at each depth.
//!
//! Requests wait for permits and places as they do in a server and compute nothing, so one that waits for ever is seen
//! at once: nothing is left to run.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::super::pool::{GUARANTEED_BYTES, Pool};
use crate::limits::CALL_DEPTHS;

/// What requests of some tenants hold.
struct World {
    pool: Arc<Pool>,
    names: Vec<Arc<str>>,
    /// The tenants that each calls, one after the other.
    links: Vec<Vec<usize>>,
    permits: Vec<[Semaphore; CALL_DEPTHS]>,
    of: Depths,
    /// What requests have done so far.
    steps: Cell<usize>,
}

/// Which places and permits a call at a depth takes: those of this depth.
#[derive(Clone, Copy)]
struct Depths {
    places: fn(usize) -> usize,
    permits: fn(usize) -> usize,
}

const OWN: Depths = Depths { places: |depth| depth, permits: |depth| depth };

impl World {
    fn new(links: Vec<Vec<usize>>, of: Depths) -> Rc<Self> {
        let pool = Pool::new([1; CALL_DEPTHS], GUARANTEED_BYTES, || false);
        let names = (0..links.len()).map(|number| number.to_string().into()).collect();
        let permits = links.iter().map(|_| std::array::from_fn(|_| Semaphore::new(1))).collect();
        Rc::new(Self { pool, names, links, permits, of, steps: Cell::new(0) })
    }

    fn request(self: Rc<Self>, tenant: usize, depth: usize) -> LocalBoxFuture<'static, ()> {
        async move {
            let _permit = self.permits[tenant][(self.of.permits)(depth)].acquire().await.unwrap();
            self.step().await;
            let _place = self.pool.place(&self.names[tenant], (self.of.places)(depth)).await.unwrap();
            self.step().await;
            for &callee in &self.links[tenant] {
                Rc::clone(&self).request(callee, depth + 1).await;
                self.step().await;
            }
        }
        .boxed_local()
    }

    /// Notes that a request goes on, and lets the others take what they can.
    async fn step(&self) {
        self.steps.set(self.steps.get() + 1);
        tokio::task::yield_now().await;
    }

    /// Runs requests of these tenants at once until none goes on, and counts those that ended.
    fn run(self: &Rc<Self>, tenants: &[usize]) -> usize {
        // All of them may be called, and all keep their part of the places.
        let _members: Vec<_> = self.names.iter().map(|name| self.pool.join(name, true)).collect();
        let mut requests: Vec<_> = tenants.iter().map(|&tenant| Rc::clone(self).request(tenant, 0)).collect();
        loop {
            let before = (self.steps.get(), requests.len());
            requests.retain_mut(|request| request.now_or_never().is_none());
            if before == (self.steps.get(), requests.len()) {
                return tenants.len() - requests.len();
            }
        }
    }
}

/// Links of up to eight tenants without a circle, no more than may be in a row: each tenant is at a depth and links to
/// deeper ones.
fn graphs() -> impl Strategy<Value = Vec<Vec<usize>>> {
    proptest::collection::vec((0..CALL_DEPTHS, any::<u8>()), 1..8).prop_map(|tenants| {
        let links = |(depth, chosen): &(usize, u8)| {
            let deeper = tenants.iter().enumerate().filter(|(_, (other, _))| other > depth);
            deeper.map(|(number, _)| number).filter(|number| (chosen >> number) & 1 == 1).collect()
        };
        tenants.iter().map(links).collect()
    })
}

proptest! {
    #[test]
    fn requests_end_in_any_graph_with_one_place_at_each_depth(
        links in graphs(),
        requests in proptest::collection::vec(any::<prop::sample::Index>(), 1..24),
    ) {
        let requests: Vec<usize> = requests.iter().map(|request| request.index(links.len())).collect();
        prop_assert_eq!(World::new(links, OWN).run(&requests), requests.len());
    }
}

#[test]
fn one_place_for_all_depths_would_end_no_chain() {
    let links = vec![vec![1], vec![]];
    assert_eq!(World::new(links.clone(), Depths { places: |_| 0, ..OWN }).run(&[0]), 0);
    assert_eq!(World::new(links, OWN).run(&[0]), 1);
}

#[test]
fn one_permit_for_all_depths_would_end_no_chain_whose_callee_is_asked_from_outside() {
    // The chain has the place that the other request waits for, which has the permit that the chain waits for.
    let links = vec![vec![1], vec![]];
    assert_eq!(World::new(links.clone(), Depths { permits: |_| 0, ..OWN }).run(&[0, 1]), 0);
    assert_eq!(World::new(links, OWN).run(&[0, 1]), 2);
}
