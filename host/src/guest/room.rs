//! Divides a quantity among tenants: a guaranteed part for each, the rest for whoever comes first.
//!
//! A tenant may take more than its guarantee only out of what the guarantees of the others leave. So a member can
//! always have its guaranteed part, however much others take, as long as the guarantees together fit the total.
//!
//! Knows tenants and amounts; never what they are amounts of.

use std::collections::HashMap;
use std::sync::Arc;

/// A quantity that tenants take from and give back to.
#[derive(Debug)]
pub(super) struct Room {
    total: u64,
    guarantee: u64,
    taken: u64,
    /// What the members have not taken of their guarantees.
    owed: u64,
    tenants: HashMap<Arc<str>, Part>,
}

#[derive(Debug, Default)]
struct Part {
    memberships: u64,
    taken: u64,
}

/// Whose bound refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The tenant's own.
    Tenant,
    /// The total, less what others are guaranteed.
    Total,
}

impl Part {
    fn owed(&self, guarantee: u64) -> u64 {
        if self.memberships > 0 { guarantee.saturating_sub(self.taken) } else { 0 }
    }
}

impl Room {
    pub(super) fn new(total: u64, guarantee: u64) -> Self {
        Self { total, guarantee, taken: 0, owed: 0, tenants: HashMap::new() }
    }

    /// The most that all tenants together may take.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What all tenants together have taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// What a tenant has taken.
    pub(super) fn taken_by(&self, tenant: &str) -> u64 {
        self.tenants.get(tenant).map_or(0, |part| part.taken)
    }

    /// Guarantees a tenant its part, until as many calls of [`leave`](Self::leave).
    pub(super) fn join(&mut self, tenant: &Arc<str>) {
        self.change(tenant, |part| part.memberships += 1);
    }

    /// Ends a guarantee. What the tenant has taken stays taken.
    pub(super) fn leave(&mut self, tenant: &Arc<str>) {
        self.change(tenant, |part| part.memberships = part.memberships.saturating_sub(1));
    }

    /// Takes an amount, all or nothing, where the tenant may have at most `most`.
    pub(super) fn take(&mut self, tenant: &Arc<str>, amount: u64, most: u64) -> Result<(), Refused> {
        let free = self.total.saturating_sub(self.taken);
        let (own, owed) = self.tenants.get(tenant).map_or((0, 0), |part| (part.taken, part.owed(self.guarantee)));
        if own.saturating_add(amount) > most {
            return Err(Refused::Tenant);
        }
        let is_guaranteed = amount <= owed;
        let others = self.owed - owed;
        if amount > if is_guaranteed { free } else { free.saturating_sub(others) } {
            return Err(Refused::Total);
        }
        self.taken += amount;
        self.change(tenant, |part| part.taken += amount);
        Ok(())
    }

    /// Gives an amount back.
    pub(super) fn give(&mut self, tenant: &Arc<str>, amount: u64) {
        self.taken = self.taken.saturating_sub(amount);
        self.change(tenant, |part| part.taken = part.taken.saturating_sub(amount));
    }

    fn change(&mut self, tenant: &Arc<str>, change: impl FnOnce(&mut Part)) {
        let part = self.tenants.entry(Arc::clone(tenant)).or_default();
        let before = part.owed(self.guarantee);
        change(part);
        let after = part.owed(self.guarantee);
        let is_gone = part.memberships == 0 && part.taken == 0;
        self.owed = self.owed - before + after;
        if is_gone {
            self.tenants.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANY: u64 = u64::MAX;

    #[test]
    fn what_one_tenant_leaves_is_the_others_guarantee() {
        let mut room = Room::new(10, 1);
        let (loud, quiet): (Arc<str>, Arc<str>) = ("loud".into(), "quiet".into());
        room.join(&loud);
        room.join(&quiet);
        let taken = (0..20).filter(|_| room.take(&loud, 1, ANY).is_ok()).count();
        assert_eq!(taken, 9);
        assert_eq!(room.take(&loud, 1, ANY), Err(Refused::Total));
        assert_eq!(room.take(&quiet, 1, ANY), Ok(()));
        room.give(&quiet, 1);
        assert_eq!(room.take(&loud, 1, ANY), Err(Refused::Total));
        room.leave(&quiet);
        assert_eq!(room.take(&loud, 1, ANY), Ok(()));
    }

    #[test]
    fn a_tenants_own_bound_is_told_from_the_total() {
        let mut room = Room::new(10, 0);
        let tenant: Arc<str> = "a".into();
        assert_eq!(room.take(&tenant, 4, 3), Err(Refused::Tenant));
        assert_eq!(room.take(&tenant, 3, 3), Ok(()));
        assert_eq!(room.take(&tenant, 1, 3), Err(Refused::Tenant));
        assert_eq!(room.taken_by("a"), 3);
    }

    proptest! {
        /// Whatever tenants take and give back, each can have its guarantee, and the sums are right.
        #[test]
        fn every_member_can_always_have_its_guarantee(steps in proptest::collection::vec((0_usize..4, 1_u64..6, any::<bool>()), 1..200)) {
            let tenants: Vec<Arc<str>> = ["a", "b", "c", "d"].map(Arc::from).to_vec();
            let (mut room, mut taken) = (Room::new(20, 3), vec![Vec::new(); 4]);
            tenants.iter().for_each(|tenant| room.join(tenant));
            for (tenant, amount, gives) in steps {
                if gives {
                    if let Some(amount) = taken[tenant].pop() {
                        room.give(&tenants[tenant], amount);
                    }
                } else if room.take(&tenants[tenant], amount, ANY).is_ok() {
                    taken[tenant].push(amount);
                }
                let sums: Vec<u64> = taken.iter().map(|amounts| amounts.iter().sum()).collect();
                prop_assert!(sums.iter().sum::<u64>() <= 20);
                let owed: u64 = sums.iter().map(|sum| 3_u64.saturating_sub(*sum)).sum();
                prop_assert_eq!(room.owed, owed);
                prop_assert!(owed <= 20 - sums.iter().sum::<u64>(), "the guarantees do not fit");
            }
        }
    }
}
