//! WASI that grants nothing, for guests whose language needs it.
//!
//! No files, arguments, environment or network; standard output and error are dropped, but for the [last
//! words](super::last_words) of a guest that is being tried. Clocks stand still, because they would show how busy a
//! guest's neighbours are; for the same reason nothing can be waited for: every time that a guest subscribes to is
//! over at once. Random numbers are real: they reveal nothing and protect a guest's hash tables. A guest that does
//! not use WASI pays nothing for it.

use std::time::Duration;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::clocks::{WasiClocksCtxView, WasiClocksView};
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};

use super::last_words::LastWords;

/// Most handles that a guest holds at once: an interpreter keeps its three streams.
const MAX_HANDLES: usize = 256;

/// Most random bytes in one call: seeds take 32.
const MAX_RANDOM_BYTES: u64 = 1 << 16;

/// A guest's WASI, made at its first call.
#[derive(Default)]
pub(super) struct Wasi {
    made: Option<Box<Made>>,
    is_tried: bool,
}

struct Made {
    ctx: WasiCtx,
    table: ResourceTable,
    words: LastWords,
}

impl Wasi {
    pub(super) fn view(&mut self) -> WasiCtxView<'_> {
        let Made { ctx, table, .. } = &mut **self.made.get_or_insert_with(|| Box::new(nothing(self.is_tried)));
        WasiCtxView { ctx, table }
    }

    /// Keeps the guest's last words from now on, as the host tries it, or drops them, as it serves a caller.
    pub(super) fn set_tried(&mut self, is_tried: bool) {
        self.is_tried = is_tried;
        if let Some(made) = &self.made {
            made.words.listen(is_tried);
        }
    }

    /// What the guest printed last, if it is being tried.
    pub(super) fn last_words(&self) -> Option<String> {
        self.made.as_ref().and_then(|made| made.words.heard())
    }

    /// Whether the guest holds handles. They would dangle in a snapshot of its memory.
    pub(super) fn holds_handles(&self) -> bool {
        self.made.as_ref().is_some_and(|made| !made.table.is_empty())
    }
}

impl std::fmt::Debug for Wasi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wasi").field("is_made", &self.made.is_some()).finish_non_exhaustive()
    }
}

fn nothing(is_tried: bool) -> Made {
    let words = LastWords::default();
    words.listen(is_tried);
    let mut ctx = WasiCtx::builder();
    ctx.allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(MAX_RANDOM_BYTES)
        .wall_clock(StoppedClock)
        .monotonic_clock(StoppedClock)
        .stdout(words.clone())
        .stderr(words.clone());
    let mut table = ResourceTable::new();
    table.set_max_capacity(MAX_HANDLES);
    Made { ctx: ctx.build(), table, words }
}

struct StoppedClock;

impl HostWallClock for StoppedClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StoppedClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Adds WASI to a linker.
pub(super) fn add_to_linker<T: WasiView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<T, HasStoppedClocks>(linker, |state| StoppedClocks(state.clocks()))?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The monotonic clock, with which a guest would measure time if it could wait.
struct StoppedClocks<'a>(WasiClocksCtxView<'a>);

struct HasStoppedClocks;

impl HasData for HasStoppedClocks {
    type Data<'a> = StoppedClocks<'a>;
}

impl monotonic_clock::Host for StoppedClocks<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        monotonic_clock::Host::now(&mut self.0)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        monotonic_clock::Host::resolution(&mut self.0)
    }

    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.0.subscribe_duration(0)
    }

    fn subscribe_duration(&mut self, _duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.0.subscribe_duration(0)
    }
}
