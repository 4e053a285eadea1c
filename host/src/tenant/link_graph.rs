//! Which tenants call which: whether links make a circle, and how many follow each other.
//!
//! Knows names; never versions, guests or calls.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::TenantName;

/// Links between tenants.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkGraph {
    callees: BTreeMap<TenantName, BTreeSet<TenantName>>,
    callers: BTreeMap<TenantName, BTreeSet<TenantName>>,
}

impl LinkGraph {
    /// Notes that one tenant calls another.
    pub(super) fn add(&mut self, caller: &TenantName, callee: &TenantName) {
        self.callees.entry(caller.clone()).or_default().insert(callee.clone());
        self.callers.entry(callee.clone()).or_default().insert(caller.clone());
    }

    /// The shortest circle through a tenant, which is first and last in it.
    pub(super) fn circle_through(&self, tenant: &TenantName) -> Option<Vec<TenantName>> {
        let mut found_from: BTreeMap<&TenantName, &TenantName> = BTreeMap::new();
        let mut next = vec![tenant];
        while !next.is_empty() && !found_from.contains_key(tenant) {
            let mut found = Vec::new();
            for (from, to) in next.iter().flat_map(|from| neighbours(&self.callees, from).map(move |to| (*from, to))) {
                if let Entry::Vacant(place) = found_from.entry(to) {
                    place.insert(from);
                    found.push(to);
                }
            }
            next = found;
        }
        let (mut circle, mut at) = (vec![tenant.clone()], *found_from.get(tenant)?);
        while at != tenant {
            circle.push(at.clone());
            at = found_from.get(at)?;
        }
        circle.push(tenant.clone());
        circle.reverse();
        Some(circle)
    }

    /// A chain through a tenant with more than `most` links, if there is one. Without circles.
    pub(super) fn chain_through(&self, tenant: &TenantName, most: usize) -> Option<Vec<TenantName>> {
        let mut chain = longest(&self.callers, tenant, most + 1);
        chain.reverse();
        chain.extend(longest(&self.callees, tenant, most + 1).into_iter().skip(1));
        (chain.len() - 1 > most).then_some(chain)
    }
}

/// The longest way from a tenant, of at most so many steps, which begins with the tenant.
fn longest(steps: &BTreeMap<TenantName, BTreeSet<TenantName>>, tenant: &TenantName, most: usize) -> Vec<TenantName> {
    // What so many steps lead to, each with where the last step came from.
    let mut levels: Vec<BTreeMap<&TenantName, &TenantName>> = vec![BTreeMap::from([(tenant, tenant)])];
    while levels.len() <= most {
        let last = levels.last().into_iter().flat_map(BTreeMap::keys);
        let level: BTreeMap<_, _> = last.flat_map(|&from| neighbours(steps, from).map(move |to| (to, from))).collect();
        if level.is_empty() {
            break;
        }
        levels.push(level);
    }
    let mut way = Vec::with_capacity(levels.len());
    let mut at = None;
    for level in levels.iter().rev() {
        let step = match at {
            None => level.first_key_value(),
            Some(at) => level.get_key_value(at),
        };
        let Some((&here, &from)) = step else { break };
        way.push(here.clone());
        at = Some(from);
    }
    way.reverse();
    way
}

fn neighbours<'a>(
    steps: &'a BTreeMap<TenantName, BTreeSet<TenantName>>,
    tenant: &TenantName,
) -> impl Iterator<Item = &'a TenantName> {
    steps.get(tenant).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: usize) -> TenantName {
        format!("t{number}").parse().unwrap()
    }

    fn graph(links: &[(usize, usize)]) -> LinkGraph {
        let mut graph = LinkGraph::default();
        links.iter().for_each(|&(caller, callee)| graph.add(&name(caller), &name(callee)));
        graph
    }

    fn numbers(way: Option<Vec<TenantName>>) -> Option<Vec<usize>> {
        way.map(|way| way.iter().map(|name| name.as_str()[1..].parse().unwrap()).collect())
    }

    #[test]
    fn a_circle_is_found_from_each_of_its_tenants_and_from_no_other() {
        let graph = graph(&[(0, 1), (1, 2), (2, 3), (3, 1), (2, 4), (5, 5)]);
        assert_eq!(numbers(graph.circle_through(&name(1))), Some(vec![1, 2, 3, 1]));
        assert_eq!(numbers(graph.circle_through(&name(3))), Some(vec![3, 1, 2, 3]));
        assert_eq!(numbers(graph.circle_through(&name(5))), Some(vec![5, 5]));
        for outside in [0, 4, 6] {
            assert_eq!(graph.circle_through(&name(outside)), None, "{outside}");
        }
    }

    #[test]
    fn a_chain_is_counted_from_its_first_caller_to_its_last_callee() {
        let graph = graph(&[(0, 1), (1, 2), (2, 3), (7, 2), (2, 8)]);
        assert_eq!(numbers(graph.chain_through(&name(1), 2)), Some(vec![0, 1, 2, 3]));
        for tenant in 0..9 {
            assert_eq!(graph.chain_through(&name(tenant), 3), None, "{tenant}");
        }
        assert_eq!(numbers(graph.chain_through(&name(7), 1)), Some(vec![7, 2, 3]));
        assert_eq!(numbers(graph.chain_through(&name(0), 0)), Some(vec![0, 1]));
    }

    proptest! {
        /// Links lead from lower to higher numbers only, so there is no circle.
        #[test]
        fn the_longest_chain_is_found_from_each_of_its_tenants(
            links in proptest::collection::vec((0_usize..8, 1_usize..4), 0..20),
        ) {
            let links: Vec<_> = links.into_iter().map(|(from, step)| (from, from + step)).collect();
            let graph = graph(&links);
            let mut longest = [0_usize; 12];
            for to in 0..12 {
                let before = links.iter().filter(|link| link.1 == to).map(|link| longest[link.0] + 1);
                longest[to] = before.max().unwrap_or(0);
            }
            let (last, &most) = longest.iter().enumerate().max_by_key(|(_, most)| **most).unwrap();
            prop_assert_eq!(graph.chain_through(&name(last), most), None);
            if most > 0 {
                let chain = graph.chain_through(&name(last), most - 1).unwrap();
                prop_assert_eq!(chain.len(), most + 1);
                for pair in chain.windows(2) {
                    prop_assert!(links.iter().any(|&(from, to)| name(from) == pair[0] && name(to) == pair[1]));
                }
                for tenant in &chain {
                    prop_assert!(graph.chain_through(tenant, most - 1).is_some());
                }
            }
            for tenant in 0..12 {
                prop_assert_eq!(graph.circle_through(&name(tenant)), None);
            }
        }
    }
}
