//! Slots, leases and the dispatcher under a model checker: the program's own files, with its locks in place of the
//! standard library's. Every order of threads that is tried ends with nothing lost and nothing held.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test may panic; the files have more than is used here"
)]

mod sync {
    pub(crate) use super::offer::{Need, Offer};
    pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use std::sync::PoisonError;
    pub(crate) use std::time::Instant;
}

#[path = "../src/schedule/class.rs"]
mod class;
#[path = "../src/schedule/dispatch.rs"]
mod dispatch;
#[path = "../src/serving/offer.rs"]
mod offer;
#[path = "../src/schedule/queue.rs"]
mod queue;
#[path = "../src/serving/residency.rs"]
mod residency;
#[path = "../src/serving/slots.rs"]
mod slots;

use std::time::Duration;

use class::PriorityClass;
use dispatch::{Action, Dispatcher, Job, Remote, Shape};
use offer::{Need, Offer};
use queue::RequestId;
use residency::{Residence, Residency};
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;
use slots::{SlotPermit, Slots};

/// Orders of threads tried for each test.
const TRIES: usize = 3000;

#[derive(Debug)]
struct Window {
    request: RequestId,
    first: bool,
    alone: bool,
    slots: Arc<Slots>,
    abandoned: Arc<AtomicBool>,
    runs: Arc<AtomicUsize>,
    again: usize,
}

#[derive(Debug)]
struct Switches;

impl Remote for Switches {
    fn pause(&self) {}
    fn resume(&self) {}
    fn set_threads(&self, _threads: usize) {}
}

impl Job for Window {
    type Slot = SlotPermit;
    type Remote = Switches;

    fn request(&self) -> RequestId {
        self.request
    }
    fn class(&self) -> PriorityClass {
        PriorityClass::Interactive
    }
    fn first(&self) -> bool {
        self.first
    }
    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }
    fn model(&self) -> usize {
        1
    }
    fn runs_alone(&self) -> bool {
        self.alone
    }
    fn need(&self, _others_wait: bool) -> Need {
        Need::Exclusive { drain: true }
    }
    fn offer(&self, need: Need) -> Offer<SlotPermit> {
        let permit = match need {
            Need::Exclusive { .. } => self.slots.take_alone(),
            Need::Extra => self.slots.take(3),
            Need::Shared | Need::Isolated => self.slots.take(2),
        };
        match permit {
            Some(permit) => Offer::Slot(permit),
            None if matches!(need, Need::Exclusive { .. }) => Offer::Drain,
            None => Offer::Wait,
        }
    }
    fn free_slots(&self) -> usize {
        self.slots.free(2)
    }
    fn shape(_slot: &SlotPermit) -> Shape {
        Shape {
            gpu: false,
            windows_per_core: 1,
        }
    }
}

#[derive(Clone)]
struct World {
    dispatcher: Arc<Dispatcher<Window>>,
    running: Arc<Mutex<Vec<thread::JoinHandle<()>>>>,
}

impl World {
    fn pump(&self) {
        for action in self.dispatcher.pump() {
            let Action::Start {
                mut job, slot, key, ..
            } = action
            else {
                panic!("nothing here is ever broken");
            };
            let world = self.clone();
            let handle = thread::spawn(move || {
                world.dispatcher.started(key, Switches);
                thread::yield_now();
                drop(slot);
                world.dispatcher.finish(key);
                if job.again > 0 && !job.abandoned() {
                    job.again -= 1;
                    job.alone = true;
                    world.dispatcher.push_again(job);
                } else {
                    job.runs.fetch_add(1, Ordering::SeqCst);
                }
                world.pump();
            });
            self.running.lock().unwrap().push(handle);
        }
    }

    fn join(&self) {
        loop {
            let handle = self.running.lock().unwrap().pop();
            let Some(handle) = handle else { return };
            handle.join().unwrap();
        }
    }
}

/// Clients come, some leave at any point, some windows run again and alone.
fn clients(cores: usize, leaving: bool, again: bool) {
    let world = World {
        dispatcher: Arc::new(Dispatcher::new(cores)),
        running: Arc::default(),
    };
    let slots = Arc::new(Slots::default());
    let clients: Vec<_> = (0..3_usize)
        .map(|number| {
            let (world, slots) = (world.clone(), slots.clone());
            thread::spawn(move || {
                let abandoned = Arc::new(AtomicBool::new(false));
                let runs = Arc::new(AtomicUsize::new(0));
                world.dispatcher.push(Window {
                    request: RequestId::next(),
                    first: number == 2,
                    alone: false,
                    slots,
                    abandoned: abandoned.clone(),
                    runs: runs.clone(),
                    again: usize::from(again && number == 1),
                });
                world.pump();
                let leaves = leaving && number == 0;
                if leaves {
                    thread::yield_now();
                    abandoned.store(true, Ordering::SeqCst);
                    world.pump();
                }
                (runs, leaves)
            })
        })
        .collect();
    let outcomes: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    world.join();
    for (runs, left) in outcomes {
        let runs = runs.load(Ordering::SeqCst);
        assert!(
            if left { runs <= 1 } else { runs == 1 },
            "a window ran {runs} times"
        );
    }
    assert_eq!(world.dispatcher.waiting(), 0, "a window was forgotten");
    assert_eq!(world.dispatcher.used(), 0, "cores were not given back");
    assert_eq!(slots.taken(), 0, "a slot was not given back");
}

#[test]
fn no_window_is_forgotten_and_no_core_lost() {
    shuttle::check_random(|| clients(2, false, false), TRIES);
    shuttle::check_random(|| clients(1, false, false), TRIES);
}

#[test]
fn clients_may_leave_at_any_point() {
    shuttle::check_random(|| clients(2, true, false), TRIES);
    shuttle::check_pct(|| clients(1, true, true), TRIES, 3);
}

#[test]
fn a_window_that_runs_again_alone_drains_its_engine_and_lets_the_others_in_again() {
    shuttle::check_random(|| clients(2, false, true), TRIES);
}

#[test]
fn an_engine_that_is_taken_alone_has_one_window() {
    shuttle::check_random(
        || {
            let slots = Arc::new(Slots::default());
            let inside = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let (slots, inside) = (slots.clone(), inside.clone());
                    thread::spawn(move || {
                        let alone = number == 0;
                        let permit = if alone { slots.take_alone() } else { slots.take(2) };
                        if permit.is_some() {
                            let others = inside.fetch_add(1, Ordering::SeqCst);
                            assert!(!alone || others == 0);
                            thread::yield_now();
                            let before = inside.fetch_sub(1, Ordering::SeqCst);
                            assert!(!alone || before == 1);
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(slots.taken(), 0);
        },
        TRIES,
    );
}

#[test]
fn what_is_held_is_never_unloaded_and_one_loads_at_a_time() {
    shuttle::check_random(
        || {
            let residency = Arc::new(Residency::<usize>::default());
            let loading = Arc::new(AtomicUsize::new(0));
            let users: Vec<_> = (0..3)
                .map(|number| {
                    let (residency, loading) = (residency.clone(), loading.clone());
                    thread::spawn(move || {
                        let (hold, load) = residency.hold();
                        if load {
                            assert_eq!(
                                loading.fetch_add(1, Ordering::SeqCst),
                                0,
                                "two load the same model"
                            );
                            thread::yield_now();
                            loading.fetch_sub(1, Ordering::SeqCst);
                            residency.place(number);
                        }
                        thread::yield_now();
                        if load {
                            let live = residency.look(|r| matches!(r, Residence::Live(_)));
                            assert!(live, "it was unloaded while held");
                        }
                        drop(hold);
                    })
                })
                .collect();
            let sweeper = {
                let residency = residency.clone();
                thread::spawn(move || {
                    for _ in 0..2 {
                        let _ = residency.retire(Duration::ZERO);
                        thread::yield_now();
                    }
                })
            };
            for user in users {
                user.join().unwrap();
            }
            sweeper.join().unwrap();
            let _ = residency.retire(Duration::ZERO);
            assert!(
                residency.look(|r| matches!(r, Residence::Absent)),
                "a hold was not given back"
            );
        },
        TRIES,
    );
}
