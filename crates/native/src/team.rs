//! The threads that share the work of one call.
//!
//! Work comes in phases of items. Threads claim items one by one, and a phase ends when its items are done, not when every
//! thread has arrived: a thread that the system keeps from running delays nobody unless it holds an item. Threads without
//! work spin for some microseconds and then park, so a team never burns a core that others need.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::buffer::Buffer;

/// How long a thread spins for work before it parks. Longer than the gap between two phases of a step (some microseconds),
/// far shorter than a time slice.
const SPIN: Duration = Duration::from_micros(40);
/// Bits of the claim word for the number of items and for the next one.
const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// Most items of one phase.
const MOST_ITEMS: usize = COUNT_MASK as usize;

/// Work of a phase: called with the item and the index of the thread.
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A fork-join team: the calling thread and its helpers, which park soon after the work ends.
///
/// Teams are independent of each other. A team of one has no threads and does no synchronisation.
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    scratch: Scratch,
}

/// Memory that calls reuse; grows to what the largest model and window need.
#[derive(Default)]
pub(crate) struct Scratch {
    /// One for each thread.
    pub(crate) own: Vec<Buffer>,
    /// Shared by all threads of a call.
    pub(crate) common: Buffer,
    /// Tables of pointers of a decoder step.
    pub(crate) step: crate::rows::Tables,
}

/// Two cache lines of its own: processors fetch lines in pairs.
#[repr(align(128))]
struct Lines<T>(T);

/// A phase, as the leader announces it.
struct Phase {
    /// Phase (24 bits), items of the phase (20), next item to claim (20). One word, so that an item can only be claimed of
    /// the phase it belongs to.
    claim: AtomicU64,
    /// The work of the phase; read only while holding one of its items.
    work: UnsafeCell<Option<*const Work<'static>>>,
}

struct Shared {
    phase: Lines<Phase>,
    /// Items finished in this phase.
    done: Lines<AtomicUsize>,
    /// The leader has given up spinning and wants to be woken by the last item.
    leader_waits: AtomicBool,
    leader: Mutex<Option<Thread>>,
    /// One flag for each helper: it parks or is about to.
    parked: Vec<AtomicBool>,
    /// How many of the flags are set.
    sleepers: AtomicUsize,
    panicked: AtomicBool,
    ends: AtomicBool,
}

// SAFETY: `work` is written by the leader while no item of any phase is out, and read by threads that hold an item of the
// phase it was written for; the claim word orders the two.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer inside `work` is only followed while the leader keeps its target alive.
unsafe impl Send for Shared {}

impl Team {
    /// A team of `threads` (at least 1), the caller included. Fewer, if the system refuses to start more.
    pub fn new(threads: usize) -> Self {
        let wanted = threads.clamp(1, 1024) - 1;
        let shared = Arc::new(Shared {
            phase: Lines(Phase {
                claim: AtomicU64::new(0),
                work: UnsafeCell::new(None),
            }),
            done: Lines(AtomicUsize::new(0)),
            leader_waits: AtomicBool::new(false),
            leader: Mutex::new(None),
            parked: (0..wanted).map(|_| AtomicBool::new(false)).collect(),
            sleepers: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        });
        let helpers: Vec<JoinHandle<()>> = (0..wanted)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                let builder = std::thread::Builder::new().name(format!("native-{}", index + 1));
                builder.spawn(move || shared.help(index)).ok()
            })
            .collect();
        let scratch = Scratch {
            own: (0..=helpers.len()).map(|_| Buffer::default()).collect(),
            ..Scratch::default()
        };
        Self {
            shared,
            helpers,
            scratch,
        }
    }

    /// How many threads work, the caller included.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `work` once for each of `0..items`, spread over the threads, and returns when all are done.
    ///
    /// # Panics
    ///
    /// When `work` panicked, after all other items are done.
    pub fn parallel(&mut self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        self.run(items, &|item, _| work(item), None);
    }

    /// Takes the scratch out for the length of a call, so that the team can run meanwhile.
    pub(crate) fn take_scratch(&mut self) -> Scratch {
        std::mem::take(&mut self.scratch)
    }

    /// Puts it back.
    pub(crate) fn put_scratch(&mut self, scratch: Scratch) {
        self.scratch = scratch;
    }

    /// As [`Team::parallel`], with the index of the thread. The caller asks `stop` before each item it takes; once it says
    /// yes no more items are handed out. Returns whether all were done.
    pub(crate) fn run(&mut self, items: usize, work: &Work<'_>, stop: Option<&dyn Fn() -> bool>) -> bool {
        let stopped = || stop.is_some_and(|stop| stop());
        if self.helpers.is_empty() || items <= 1 {
            for item in 0..items {
                if stopped() {
                    return false;
                }
                work(item, 0);
            }
            return true;
        }
        for first in (0..items).step_by(MOST_ITEMS) {
            let count = MOST_ITEMS.min(items - first);
            if !self.phase(count, &|item, thread| work(first + item, thread), &stopped) {
                return false;
            }
        }
        true
    }

    fn phase(&mut self, items: usize, work: &Work<'_>, stopped: &dyn Fn() -> bool) -> bool {
        let shared = &*self.shared;
        let work: *const Work<'_> = work;
        #[allow(
            clippy::transmute_ptr_to_ptr,
            reason = "a cast may not lengthen the lifetime of a trait object"
        )]
        // SAFETY: only the lifetime changes. Nobody follows the pointer without an item of this phase, and this function
        // returns only after every item is done.
        let work: *const Work<'static> = unsafe { std::mem::transmute(work) };
        // SAFETY: no item is out, so nobody reads.
        unsafe { *shared.phase.0.work.get() = Some(work) };
        shared.done.0.store(0, Ordering::Relaxed);
        let phase = (shared.phase.0.claim.load(Ordering::Relaxed) >> (2 * COUNT_BITS)).wrapping_add(1);
        shared.phase.0.claim.store(
            phase << (2 * COUNT_BITS) | (items as u64) << COUNT_BITS,
            Ordering::SeqCst,
        );
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake(items - 1);
        }
        let mut complete = true;
        let mut payload = None;
        while let Some((item, items)) = shared.take() {
            if complete && stopped() {
                complete = false;
            }
            // A stopped phase still hands out its items, to be counted and not worked on.
            if complete && payload.is_none() {
                // SAFETY: the closure is borrowed by this function.
                let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*work)(item, 0) }));
                payload = result.err();
            }
            shared.finish(items);
        }
        shared.wait(items);
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
        assert!(
            !shared.panicked.swap(false, Ordering::Relaxed),
            "a helper thread panicked"
        );
        complete
    }

    fn wake(&self, most: usize) {
        let mut left = most;
        for (flag, helper) in self.shared.parked.iter().zip(&self.helpers) {
            if left == 0 {
                break;
            }
            if flag.load(Ordering::SeqCst) {
                helper.thread().unpark();
                left -= 1;
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches panics of the work; it has nothing to report.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// Claims an item: (item, items of the phase).
    fn take(&self) -> Option<(usize, usize)> {
        let mut word = self.phase.0.claim.load(Ordering::Acquire);
        loop {
            let (items, next) = (word >> COUNT_BITS & COUNT_MASK, word & COUNT_MASK);
            if next >= items {
                return None;
            }
            match self.phase.0.claim.compare_exchange_weak(
                word,
                word + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some((next as usize, items as usize)),
                Err(now) => word = now,
            }
        }
    }

    /// Counts an item as done and wakes the leader if it was the last and the leader sleeps.
    fn finish(&self, items: usize) {
        if self.done.0.fetch_add(1, Ordering::SeqCst) + 1 == items && self.leader_waits.load(Ordering::SeqCst)
        {
            let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(thread) = &*leader {
                thread.unpark();
            }
        }
    }

    /// The leader waits for the items that helpers hold.
    fn wait(&self, items: usize) {
        if spin_until(|| self.done.0.load(Ordering::Acquire) == items) {
            return;
        }
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        self.leader_waits.store(true, Ordering::SeqCst);
        while self.done.0.load(Ordering::SeqCst) != items {
            std::thread::park();
        }
        self.leader_waits.store(false, Ordering::SeqCst);
    }

    fn help(&self, index: usize) {
        while !self.ends.load(Ordering::SeqCst) {
            if let Some((item, items)) = self.take() {
                // SAFETY: this thread holds an item of the current phase, so the pointer is the one of this phase and the
                // leader keeps its target alive until the item is counted as done.
                let work = unsafe { (*self.phase.0.work.get()).map(|work| &*work) };
                if let Some(work) = work
                    && catch_unwind(AssertUnwindSafe(|| work(item, index + 1))).is_err()
                {
                    self.panicked.store(true, Ordering::Relaxed);
                }
                self.finish(items);
                continue;
            }
            let waiting = || self.has_items() || self.ends.load(Ordering::Relaxed);
            if spin_until(waiting) {
                continue;
            }
            self.parked[index].store(true, Ordering::SeqCst);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            if !self.has_items() && !self.ends.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            self.parked[index].store(false, Ordering::SeqCst);
        }
    }

    fn has_items(&self) -> bool {
        let word = self.phase.0.claim.load(Ordering::SeqCst);
        (word & COUNT_MASK) < (word >> COUNT_BITS & COUNT_MASK)
    }
}

/// Spins until `ready` or for [`SPIN`]; whether it became ready.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    for _ in 0..64 {
        if ready() {
            return true;
        }
        std::hint::spin_loop();
    }
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 8, 33] {
            let mut team = Team::new(threads);
            for items in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                team.parallel(items, &|item| {
                    counts[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                    "{threads} {items}"
                );
            }
        }
    }

    #[test]
    fn phases_follow_each_other_and_see_what_the_last_one_wrote() {
        let mut team = Team::new(4);
        let cells: Vec<AtomicUsize> = (0..64).map(|_| AtomicUsize::new(0)).collect();
        for round in 0..5000 {
            team.parallel(cells.len(), &|item| {
                let before = cells[(item + 1) % 64].load(Ordering::Relaxed);
                assert!(before == round || before == round + 1);
                cells[item].store(round + 1, Ordering::Relaxed);
            });
            if round % 1000 == 0 {
                // Helpers park meanwhile.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    #[test]
    fn a_stopped_phase_hands_out_no_more_items() {
        for threads in [1, 3] {
            let mut team = Team::new(threads);
            let done = AtomicUsize::new(0);
            let work = |_: usize, _: usize| {
                done.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            };
            let complete = team.run(1000, &work, Some(&|| done.load(Ordering::Relaxed) > 10));
            assert!(!complete);
            assert!(done.load(Ordering::Relaxed) < 900);
            assert!(
                team.run(3, &work, Some(&|| false)),
                "the team works on afterwards"
            );
        }
    }

    #[test]
    fn a_panic_in_the_work_reaches_the_caller_and_the_team_survives() {
        for threads in [1, 4] {
            let mut team = Team::new(threads);
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.parallel(100, &|item| assert!(item != 50, "item 50"));
            }));
            assert!(result.is_err());
            let done = AtomicUsize::new(0);
            team.parallel(10, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.load(Ordering::Relaxed), 10);
        }
    }
}
