//! Who runs next: the waiting windows, the running ones and the one budget of cores, all under one lock.
//!
//! ggml's threads meet at a barrier after every step, so one thread more than there are cores makes all of them many
//! times slower: no more cores are given out than there are. A lone window gets them all; windows that begin together
//! share what is free; and where a window waits for a core, the one that has most is told to use half of its own from its
//! next step on. Only when every running window has a single core does one pause, once, for the first window of another
//! request. All decisions leave this module as values: it starts nothing itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::class::PriorityClass;
use super::queue::{Queue, RequestId};
use super::sync::{Instant, Mutex, MutexGuard, Need, Offer, PoisonError};

/// Parts of a core that are counted: engines that run several windows on one core take a part for each.
const CORE: usize = 64;

/// A window that waits.
pub(super) trait Job: Sized + std::fmt::Debug {
    /// A slot of an engine, given back when dropped.
    type Slot;
    /// Switches of a window that runs.
    type Remote: Remote + std::fmt::Debug;

    fn request(&self) -> RequestId;
    fn class(&self) -> PriorityClass;
    /// The first window of its request.
    fn first(&self) -> bool;
    /// Nobody waits for its result.
    fn abandoned(&self) -> bool;
    /// Tells models apart.
    fn model(&self) -> usize;
    /// It must run without others beside it.
    fn runs_alone(&self) -> bool;
    fn need(&self, others_wait: bool) -> Need;
    fn offer(&self, need: Need) -> Offer<Self::Slot>;
    /// Windows of its model that could begin now.
    fn free_slots(&self) -> usize;
    /// What a window on that slot is counted as.
    fn shape(slot: &Self::Slot) -> Shape;
}

/// What a running window can be told.
pub(super) trait Remote {
    fn pause(&self);
    fn resume(&self);
    fn set_threads(&self, threads: usize);
}

/// How an engine uses the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// The work is on a GPU; one core feeds it.
    pub(super) gpu: bool,
    /// Windows that share a core.
    pub(super) windows_per_core: usize,
}

/// Names a running window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u64);

/// What is to be done outside the lock.
pub(super) enum Action<J: Job> {
    /// Runs it; `Dispatcher::finish` when it has ended.
    Start {
        job: J,
        slot: J::Slot,
        threads: usize,
        key: Key,
    },
    /// Its model's engines cannot be started.
    Refuse { job: J, reason: String },
}

#[derive(Debug)]
struct Running<R> {
    class: PriorityClass,
    first: bool,
    gpu: bool,
    threads: usize,
    /// Counted in the budget.
    cost: usize,
    /// It was told to use fewer cores and has not answered.
    asked: bool,
    /// It has paused once.
    was_paused: bool,
    paused_by: Option<Key>,
    pauses: Option<Key>,
    paused_since: Option<Instant>,
    paused_for: Duration,
    remote: Option<R>,
}

#[derive(Debug)]
struct State<J: Job> {
    /// Windows that need an engine for themselves; looked at first.
    alone: VecDeque<J>,
    queue: Queue<J>,
    running: HashMap<Key, Running<J::Remote>>,
    used: usize,
    next_key: u64,
    preemptions: u64,
}

/// The waiting and the running windows.
#[derive(Debug)]
pub(super) struct Dispatcher<J: Job> {
    state: Mutex<State<J>>,
    cores: usize,
}

impl<J: Job> Dispatcher<J> {
    pub(super) fn new(cores: usize) -> Self {
        let state = State {
            alone: VecDeque::new(),
            queue: Queue::new(),
            running: HashMap::new(),
            used: 0,
            next_key: 0,
            preemptions: 0,
        };
        Self {
            state: Mutex::new(state),
            cores: cores.max(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cores(&self) -> usize {
        self.cores
    }

    /// Windows that wait.
    pub(super) fn waiting(&self) -> usize {
        let state = self.lock();
        state.queue.len() + state.alone.len()
    }

    /// Parts of cores given out.
    #[cfg(test)]
    #[allow(dead_code, reason = "the model checker's test asks")]
    pub(super) fn used(&self) -> usize {
        self.lock().used
    }

    /// Windows paused so far.
    pub(super) fn preemptions(&self) -> u64 {
        self.lock().preemptions
    }

    /// A new window.
    pub(super) fn push(&self, job: J) {
        self.lock().queue.push(job.request(), job.class(), job);
    }

    /// A window that runs again.
    pub(super) fn push_again(&self, job: J) {
        let mut state = self.lock();
        if job.runs_alone() {
            state.alone.push_back(job);
        } else {
            state.queue.push_front(job.request(), job.class(), job);
        }
    }

    /// Decides about everything that can be decided now; the caller acts.
    pub(super) fn pump(&self) -> Vec<Action<J>> {
        let mut actions = Vec::new();
        // Dropped after the lock: what a window holds may want to say something when it goes.
        let mut gone = Vec::new();
        let mut state = self.lock();
        state.drop_abandoned(&mut gone);
        let budget = self.cores * CORE;
        loop {
            let free = budget.saturating_sub(state.used);
            if free == 0 {
                if !state.make_room(&mut actions) {
                    break;
                }
                continue;
            }
            match state.next(free) {
                Next::Nothing => break,
                // Parts of a core are left, and the next window needs a whole one.
                Next::TooLarge => {
                    if !state.make_room(&mut actions) {
                        break;
                    }
                }
                Next::Act(action) => actions.push(action),
            }
        }
        drop(state);
        drop(gone);
        actions
    }

    /// The window runs and can be told things from now on.
    pub(super) fn started(&self, key: Key, remote: J::Remote) {
        if let Some(running) = self.lock().running.get_mut(&key) {
            if running.paused_by.is_some() {
                remote.pause();
            }
            running.remote = Some(remote);
        }
    }

    /// The engine says that the window uses so many cores now.
    pub(super) fn uses_threads(&self, key: Key, threads: usize) {
        self.lock().shrink(key, threads);
    }

    /// How long the window has been paused so far, and whether it is now.
    pub(super) fn paused(&self, key: Key) -> (Duration, bool) {
        let state = self.lock();
        state
            .running
            .get(&key)
            .map_or((Duration::ZERO, false), |running| {
                let now = running
                    .paused_since
                    .map_or(Duration::ZERO, |since| since.elapsed());
                (running.paused_for + now, running.paused_since.is_some())
            })
    }

    /// The window has ended, and its engine said so: its cores are free.
    pub(super) fn finish(&self, key: Key) {
        let mut state = self.lock();
        let Some(ended) = state.running.remove(&key) else {
            return;
        };
        state.used -= ended.cost;
        if let Some(victim) = ended.pauses
            && let Some(victim) = state.running.get_mut(&victim)
        {
            victim.paused_by = None;
            if let Some(since) = victim.paused_since.take() {
                victim.paused_for += since.elapsed();
            }
            if let Some(remote) = &victim.remote {
                remote.resume();
            }
        }
        // It ended although it was paused, as a cancelled window does: its core is the other one's own now.
        if let Some(other) = ended.paused_by
            && let Some(other) = state.running.get_mut(&other)
        {
            other.pauses = None;
            other.cost = ended.cost;
            state.used += ended.cost;
        }
    }
}

enum Next<J: Job> {
    Nothing,
    TooLarge,
    Act(Action<J>),
}

impl<J: Job> State<J> {
    fn drop_abandoned(&mut self, gone: &mut Vec<J>) {
        gone.extend(self.queue.take_out(|job| !job.abandoned()));
        for _ in 0..self.alone.len() {
            let Some(job) = self.alone.pop_front() else { break };
            if job.abandoned() {
                gone.push(job);
            } else {
                self.alone.push_back(job);
            }
        }
    }

    /// The next window that an engine takes, with as many cores as it shall have.
    fn next(&mut self, free: usize) -> Next<J> {
        let mut draining = HashSet::new();
        for index in 0..self.alone.len() {
            let job = &self.alone[index];
            let model = job.model();
            let others_wait = self.queue.iter().any(|other| other.model() == model);
            match job.offer(job.need(others_wait)) {
                Offer::Slot(slot) => {
                    let Some(threads) = self.share(&slot, free) else {
                        return Next::TooLarge;
                    };
                    let Some(job) = self.alone.remove(index) else {
                        return Next::Nothing;
                    };
                    return Next::Act(self.begin(job, slot, threads));
                }
                Offer::Broken(reason) => {
                    let Some(job) = self.alone.remove(index) else {
                        return Next::Nothing;
                    };
                    return Next::Act(Action::Refuse { job, reason });
                }
                Offer::Drain => {
                    draining.insert(model);
                }
                Offer::Wait => {}
            }
        }
        let mut offered = None;
        let mut reason = None;
        let job = self.queue.take_next(|job| {
            if draining.contains(&job.model()) {
                return false;
            }
            match job.offer(Need::Shared) {
                Offer::Slot(slot) => offered = Some(slot),
                Offer::Broken(why) => reason = Some(why),
                Offer::Wait | Offer::Drain => return false,
            }
            true
        });
        let Some(job) = job else { return Next::Nothing };
        if let Some(reason) = reason {
            return Next::Act(Action::Refuse { job, reason });
        }
        let Some(slot) = offered else { return Next::Nothing };
        if let Some(threads) = self.share(&slot, free) {
            Next::Act(self.begin(job, slot, threads))
        } else {
            self.queue.push_front(job.request(), job.class(), job);
            Next::TooLarge
        }
    }

    /// Cores for a window on that slot: an equal share of what is free among those that could begin now.
    fn share(&self, slot: &J::Slot, free: usize) -> Option<usize> {
        let shape = J::shape(slot);
        if free < cost(shape, 1) {
            return None;
        }
        if shape.gpu {
            return Some(1);
        }
        let mut by_model: HashMap<usize, (usize, usize)> = HashMap::new();
        for job in self.queue.iter() {
            let entry = by_model
                .entry(job.model())
                .or_insert_with(|| (0, job.free_slots()));
            entry.0 += 1;
        }
        let others: usize = by_model.values().map(|(waiting, free)| waiting.min(free)).sum();
        Some((free / CORE / (1 + others)).max(1))
    }

    fn begin(&mut self, job: J, slot: J::Slot, threads: usize) -> Action<J> {
        let shape = J::shape(&slot);
        let key = self.admit(&job, shape, threads, cost(shape, threads));
        Action::Start {
            job,
            slot,
            threads,
            key,
        }
    }

    fn admit(&mut self, job: &J, shape: Shape, threads: usize, cost: usize) -> Key {
        self.next_key += 1;
        let key = Key(self.next_key);
        self.used += cost;
        let running = Running {
            class: job.class(),
            first: job.first(),
            gpu: shape.gpu,
            threads,
            cost,
            asked: false,
            was_paused: false,
            paused_by: None,
            pauses: None,
            paused_since: None,
            paused_for: Duration::ZERO,
            remote: None,
        };
        self.running.insert(key, running);
        key
    }

    fn shrink(&mut self, key: Key, threads: usize) {
        if let Some(running) = self.running.get_mut(&key) {
            running.asked = false;
            if threads < running.threads && running.cost > 0 {
                let freed = (running.threads - threads) * CORE;
                running.threads = threads;
                running.cost -= freed;
                self.used -= freed;
            }
        }
    }

    /// All cores are given out. True when something was done after which another look is worth while.
    fn make_room(&mut self, actions: &mut Vec<Action<J>>) -> bool {
        let could_begin = |job: &J| !job.runs_alone() && job.free_slots() > 0;
        let waits = self.queue.iter().any(could_begin) || !self.alone.is_empty();
        let widest = self
            .running
            .iter()
            .filter(|(_, r)| !r.gpu && r.threads > 1 && r.cost > 0 && r.remote.is_some())
            .max_by_key(|(_, r)| r.threads)
            .map(|(key, _)| *key);
        if let (Some(key), true) = (widest, waits) {
            // Somebody waits for the first words: a core too many for the length of a step is better than the wait.
            let at_once = self
                .queue
                .iter()
                .any(|job| could_begin(job) && job.first() && job.class() != PriorityClass::Batch);
            let Some(running) = self.running.get_mut(&key) else {
                return false;
            };
            let threads = running.threads.div_ceil(2).min(running.threads - 1);
            if !running.asked {
                running.asked = true;
                if let Some(remote) = &running.remote {
                    remote.set_threads(threads);
                }
            }
            if at_once {
                self.shrink(key, threads);
            }
            return at_once;
        }
        self.preempt(actions)
    }

    /// Pauses a window of a longer recording for the first window of another request.
    fn preempt(&mut self, actions: &mut Vec<Action<J>>) -> bool {
        let victim = self
            .running
            .iter()
            .filter(|(_, r)| {
                !r.gpu
                    && !r.first
                    && !r.was_paused
                    && r.threads == 1
                    && r.cost > 0
                    && r.pauses.is_none()
                    && r.remote.is_some()
            })
            .max_by_key(|(key, r)| (r.class, key.0))
            .map(|(key, r)| (*key, r.class));
        let Some((victim, class)) = victim else {
            return false;
        };
        let mut offered = None;
        let next = self.queue.take_next(|job| {
            let may = job.first() && job.class() != PriorityClass::Batch && job.class() <= class;
            if may && let Offer::Slot(slot) = job.offer(Need::Extra) {
                offered = Some(slot);
            }
            offered.is_some()
        });
        let (Some(job), Some(slot)) = (next, offered) else {
            return false;
        };
        let key = self.admit(&job, J::shape(&slot), 1, 0);
        if let Some(running) = self.running.get_mut(&key) {
            running.pauses = Some(victim);
        }
        if let Some(running) = self.running.get_mut(&victim) {
            running.was_paused = true;
            running.paused_by = Some(key);
            running.paused_since = Some(Instant::now());
            if let Some(remote) = &running.remote {
                remote.pause();
            }
        }
        self.preemptions += 1;
        actions.push(Action::Start {
            job,
            slot,
            threads: 1,
            key,
        });
        true
    }
}

fn cost(shape: Shape, threads: usize) -> usize {
    if shape.gpu {
        CORE
    } else if threads <= 1 {
        (CORE / shape.windows_per_core.clamp(1, CORE)).max(1)
    } else {
        threads * CORE
    }
}
