//! The device's memory: the budget for models, the models that hold it, and which of them make room for another.
//!
//! Each model has its own weights and transfer buffers. All models share the device's arena for activations, as large
//! as the largest need among them. Pure bookkeeping: [`super::models`] loads and unloads.

use std::collections::HashMap;
use std::fmt;

use assay_kernels::DeviceMemory;
use assay_kernels::gpu::{AdapterDescription, AdapterKind};
use bytesize::ByteSize;
use sysinfo::{MemoryRefreshKind, System};

use crate::model::ModelRevision;

/// Default share of the machine's memory for models. The other half is for guests, compiled code, checkpoints being
/// read, and everything else that runs.
const DEFAULT_PART_OF_MEMORY: u64 = 2;

/// Default budget on a GPU with its own memory, whose size no portable interface reports. Nearly every such GPU has
/// this much, and a dozen models of 300 MB fit.
pub const DEFAULT_DISCRETE_GPU_BYTES: u64 = 4 << 30;

/// Default budget if the system does not report its memory.
const DEFAULT_UNKNOWN_BYTES: u64 = 2 << 30;

/// Most memory that models may take on a device, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBudget {
    /// The bytes.
    pub bytes: u64,
    /// Why it is this much.
    pub source: BudgetSource,
}

/// Why a budget is as large as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetSource {
    /// Given by the user.
    Given,
    /// Half of the memory of the machine or the container.
    HalfOfMemory {
        /// The whole memory, in bytes.
        memory_bytes: u64,
    },
    /// [`DEFAULT_DISCRETE_GPU_BYTES`].
    DiscreteGpu,
    /// The system does not report its memory.
    UnknownMemory,
}

/// The models on a device, with the memory and holders of each. Two revisions of one name are two models.
#[derive(Debug)]
pub(super) struct Holdings<T> {
    models: HashMap<ModelRevision, Holding<T>>,
    /// Counts uses, to order them.
    uses: u64,
}

/// A model on the device.
#[derive(Debug, Clone)]
pub(super) struct Holding<T> {
    pub(super) model: T,
    pub(super) memory: DeviceMemory,
    /// Versions that hold the model; it makes room only if there are none.
    pub(super) holders: usize,
    last_use: u64,
}

/// A model does not fit beside the models in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{model} needs {} of the device's memory, whose budget is {}{}: give the device a larger budget{}",
    ByteSize(*.needs_bytes),
    ByteSize(*.budget_bytes),
    in_use(.held, *.shared_bytes),
    if .held.is_empty() { "" } else { ", or remove a model that is in use from its tenants" }
)]
pub struct NoRoom {
    /// The model.
    pub model: String,
    /// Additional memory that it needs.
    pub needs_bytes: u64,
    /// The models in use, and the own memory of each.
    pub held: Vec<(String, u64)>,
    /// The buffers that the models in use share.
    pub shared_bytes: u64,
    /// The device's budget.
    pub budget_bytes: u64,
}

fn in_use(held: &[(String, u64)], shared_bytes: u64) -> String {
    if held.is_empty() {
        return String::new();
    }
    let held: Vec<String> = held.iter().map(|(model, bytes)| format!("{model} {}", ByteSize(*bytes))).collect();
    format!(", and models in use hold {}, and share {}", held.join(", "), ByteSize(shared_bytes))
}

impl MemoryBudget {
    /// The budget given by the user, or the device's default; `None` for the adapter means the processor.
    #[must_use]
    pub fn of(given: Option<u64>, adapter: Option<&AdapterDescription>) -> Self {
        match (given, adapter.map(|adapter| adapter.kind)) {
            (Some(bytes), _) => Self { bytes, source: BudgetSource::Given },
            (None, Some(AdapterKind::Discrete | AdapterKind::Virtual | AdapterKind::Other)) => {
                Self { bytes: DEFAULT_DISCRETE_GPU_BYTES, source: BudgetSource::DiscreteGpu }
            }
            (None, None | Some(AdapterKind::Integrated | AdapterKind::Software)) => Self::half(machine_memory_bytes()),
        }
    }

    fn half(memory_bytes: Option<u64>) -> Self {
        match memory_bytes {
            Some(memory_bytes) => Self {
                bytes: memory_bytes / DEFAULT_PART_OF_MEMORY,
                source: BudgetSource::HalfOfMemory { memory_bytes },
            },
            None => Self { bytes: DEFAULT_UNKNOWN_BYTES, source: BudgetSource::UnknownMemory },
        }
    }
}

/// Memory of the machine, or of the container if that is less; `None` if the system does not say.
#[must_use]
pub fn machine_memory_bytes() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let container = system.cgroup_limits().map(|limits| limits.total_memory).filter(|&bytes| bytes > 0);
    let machine = Some(system.total_memory()).filter(|&bytes| bytes > 0)?;
    Some(container.map_or(machine, |container| container.min(machine)))
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", ByteSize(self.bytes))?;
        match self.source {
            BudgetSource::Given => f.write_str("as asked for"),
            BudgetSource::HalfOfMemory { memory_bytes } => write!(f, "half of {}", ByteSize(memory_bytes)),
            BudgetSource::DiscreteGpu => f.write_str("the default for a GPU with memory of its own"),
            BudgetSource::UnknownMemory => f.write_str("the default where the system does not tell its memory"),
        }
    }
}

/// A model's memory without the shared arena. What it keeps in the processor's memory counts as well: the GPUs with
/// small buffers share that memory.
fn own_bytes(memory: &DeviceMemory) -> u64 {
    memory.weights_bytes + memory.io_bytes + memory.host_bytes
}

impl<T> Default for Holdings<T> {
    fn default() -> Self {
        Self { models: HashMap::new(), uses: 0 }
    }
}

impl<T: Clone> Holdings<T> {
    /// Adds a holder to a loaded model.
    pub(super) fn hold(&mut self, key: &ModelRevision) -> Option<T> {
        let holding = self.models.get_mut(key)?;
        holding.holders += 1;
        Some(holding.model.clone())
    }

    /// Adds a model with one holder.
    pub(super) fn insert(&mut self, key: ModelRevision, model: T, memory: DeviceMemory) {
        self.models.insert(key, Holding { model, memory, holders: 1, last_use: self.uses });
    }

    /// Removes one holder.
    pub(super) fn release(&mut self, key: &ModelRevision) {
        if let Some(holding) = self.models.get_mut(key) {
            holding.holders = holding.holders.saturating_sub(1);
            self.uses += 1;
            holding.last_use = self.uses;
        }
    }

    /// Every model, by name and revision.
    pub(super) fn all(&self) -> Vec<(&ModelRevision, &Holding<T>)> {
        let mut all: Vec<_> = self.models.iter().collect();
        all.sort_by_key(|&(key, _)| key);
        all
    }

    /// Removes unused models, least recently used first, until the new model fits. Removes none if that would not help.
    ///
    /// # Errors
    /// The model does not fit beside the held models.
    pub(super) fn make_room(
        &mut self,
        name: &str,
        needs: &DeviceMemory,
        budget: &MemoryBudget,
    ) -> Result<Vec<T>, NoRoom> {
        let mut kept: Vec<(&ModelRevision, &Holding<T>)> = self.models.iter().collect();
        // Models to keep longest come first: the held ones, then the recently used.
        kept.sort_by_key(|(key, holding)| {
            (std::cmp::Reverse(holding.holders > 0), std::cmp::Reverse(holding.last_use), (*key).clone())
        });
        let mut leaving = Vec::new();
        while used(kept.iter().map(|(_, holding)| &holding.memory).chain([needs])) > budget.bytes {
            match kept.pop_if(|(_, holding)| holding.holders == 0) {
                Some((key, _)) => leaving.push(key.clone()),
                None => {
                    let others = used(kept.iter().map(|(_, holding)| &holding.memory));
                    let all = used(kept.iter().map(|(_, holding)| &holding.memory).chain([needs]));
                    let held = kept.iter().map(|(key, holding)| (key.name.clone(), own_bytes(&holding.memory)));
                    return Err(NoRoom {
                        model: name.to_owned(),
                        needs_bytes: all - others,
                        held: held.collect(),
                        shared_bytes: kept.iter().map(|(_, holding)| holding.memory.arena_bytes).max().unwrap_or(0),
                        budget_bytes: budget.bytes,
                    });
                }
            }
        }
        Ok(leaving.iter().filter_map(|key| self.models.remove(key)).map(|holding| holding.model).collect())
    }

    /// Bytes of all models, including the arena.
    pub(super) fn used_bytes(&self) -> u64 {
        used(self.models.values().map(|holding| &holding.memory))
    }
}

/// Bytes of models with these needs: one arena for all, plus the own memory of each.
fn used<'a>(models: impl Iterator<Item = &'a DeviceMemory>) -> u64 {
    let (own, arena) =
        models.fold((0, 0), |(own, arena), memory| (own + own_bytes(memory), memory.arena_bytes.max(arena)));
    own + arena
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> ModelRevision {
        ModelRevision { name: name.to_owned(), revision: "1".to_owned() }
    }

    fn memory(weights_bytes: u64, arena_bytes: u64) -> DeviceMemory {
        DeviceMemory { weights_bytes, arena_bytes, io_bytes: 1, host_bytes: 0 }
    }

    fn budget(bytes: u64) -> MemoryBudget {
        MemoryBudget { bytes, source: BudgetSource::Given }
    }

    /// Adds an unused model.
    fn idle(holdings: &mut Holdings<&'static str>, name: &'static str, memory: DeviceMemory) {
        holdings.insert(key(name), name, memory);
        holdings.release(&key(name));
    }

    #[test]
    fn the_least_recently_used_model_makes_room_first() {
        let mut holdings = Holdings::default();
        for name in ["first", "second", "third"] {
            idle(&mut holdings, name, memory(99, 0));
        }
        assert_eq!(holdings.hold(&key("first")), Some("first"));
        holdings.release(&key("first"));
        assert_eq!(holdings.make_room("new", &memory(99, 0), &budget(400)), Ok(vec![]));
        assert_eq!(holdings.make_room("new", &memory(99, 0), &budget(399)), Ok(vec!["second"]));
        assert_eq!(holdings.make_room("new", &memory(199, 0), &budget(300)), Ok(vec!["third"]));
        assert_eq!(holdings.used_bytes(), 100);
    }

    #[test]
    fn the_arena_is_counted_once_for_all_models() {
        let mut holdings = Holdings::default();
        idle(&mut holdings, "wide", memory(99, 50));
        assert_eq!(holdings.make_room("new", &memory(99, 40), &budget(250)), Ok(vec![]));
        assert_eq!(holdings.make_room("wider", &memory(99, 51), &budget(251)), Ok(vec![]));
        assert_eq!(holdings.make_room("wider", &memory(99, 52), &budget(251)), Ok(vec!["wide"]));
    }

    #[test]
    fn a_model_that_cannot_fit_is_refused_with_the_figures_and_unloads_nothing() {
        let mut holdings = Holdings::default();
        idle(&mut holdings, "idle", memory(100 << 20, 0));
        holdings.insert(key("busy"), "busy", memory(600 << 20, 10 << 20));
        let refused = holdings.make_room("new", &memory(500 << 20, 20 << 20), &budget(1 << 30)).unwrap_err();
        assert_eq!(refused.needs_bytes, (510 << 20) + 1);
        let message = refused.to_string();
        for part in [
            "new needs 510.0 MiB",
            "budget is 1.0 GiB",
            "busy 600.0 MiB",
            "share 10.0 MiB",
            "larger budget",
            "remove a model",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        assert!(holdings.hold(&key("idle")).is_some(), "it would not have helped");
        let alone = Holdings::<()>::default().make_room("new", &memory(2 << 30, 0), &budget(1 << 30)).unwrap_err();
        assert!(!alone.to_string().contains("in use"), "{alone}");
    }

    #[test]
    fn every_device_has_a_default_budget_with_a_reason() {
        let adapter = |kind| AdapterDescription {
            index: 0,
            name: String::new(),
            backend: String::new(),
            driver: String::new(),
            kind,
            unusable: None,
            timestamps: false,
            unified_memory: false,
            native_f16: false,
            cooperative: Vec::new(),
            subgroup: None,
            max_buffer_bytes: 0,
            workgroup_bytes: 0,
            variant: "tile",
        };
        let discrete = MemoryBudget::of(None, Some(&adapter(AdapterKind::Discrete)));
        assert_eq!(discrete, MemoryBudget { bytes: 4 << 30, source: BudgetSource::DiscreteGpu });
        assert_eq!(discrete.to_string(), "4.0 GiB, the default for a GPU with memory of its own");
        let processor = MemoryBudget::of(None, None);
        assert_eq!(processor, MemoryBudget::of(None, Some(&adapter(AdapterKind::Integrated))));
        assert!(processor.bytes > 64 << 20, "{processor}");
        assert_eq!(MemoryBudget::half(Some(8 << 30)).to_string(), "4.0 GiB, half of 8.0 GiB");
        assert_eq!(MemoryBudget::of(Some(5), None), budget(5));
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_held_models_stay(
            steps in prop::collection::vec((0_usize..6, 1_u64..400, 0_u64..100, any::<bool>()), 1..80)
        ) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let mut holdings = Holdings::default();
            let mut held = HashMap::<&str, usize>::new();
            for (which, weights, arena, take) in steps {
                let name = names[which];
                if !take {
                    if let Some(count) = held.get_mut(name).filter(|count| **count > 0) {
                        *count -= 1;
                        holdings.release(&key(name));
                    }
                } else if holdings.hold(&key(name)).is_some() {
                    *held.entry(name).or_default() += 1;
                } else if let Ok(left) = holdings.make_room(name, &memory(weights, arena), &budget(1_000)) {
                    for gone in left {
                        prop_assert_eq!(held.get(gone).copied().unwrap_or(0), 0, "a held model made room");
                    }
                    holdings.insert(key(name), name, memory(weights, arena));
                    *held.entry(name).or_default() += 1;
                }
                prop_assert!(holdings.used_bytes() <= 1_000);
                for (name, &count) in held.iter().filter(|(_, count)| **count > 0) {
                    let found = holdings.all().into_iter().find(|(key, _)| key.name == **name).map(|(_, it)| it.holders);
                    prop_assert_eq!(found, Some(count));
                }
            }
        }
    }
}
