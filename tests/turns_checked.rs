//! The turns of `admission` under a model checker: no turn is lost, whoever comes, leaves or gives way when.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

/// The primitives that the checker controls, where the room has std's.
mod sync {
    pub use shuttle::sync::{Arc, Mutex, MutexGuard};
    pub use std::sync::PoisonError;
}
mod schedule {
    pub use whisper_backend_api::schedule::PriorityClass;
}
#[path = "../src/admission/turns.rs"]
#[allow(dead_code, reason = "not every question is asked here")]
mod turns;

use schedule::PriorityClass::{Batch, Interactive, Realtime};
use turns::Turns;

/// Four requests for two turns, two of them long, one that leaves in the middle of waiting.
#[test]
fn every_request_is_served_and_every_turn_comes_back() {
    shuttle::check_random(
        || {
            let turns = Turns::new(2);
            let mut all = Vec::new();
            for class in [Batch, Interactive, Interactive, Realtime] {
                let turns = turns.clone();
                all.push(shuttle::future::spawn(async move {
                    let mut turn = turns.take(class).await;
                    for _ in 0..2 {
                        if turns.wanted(class, true) {
                            drop(turn);
                            turn = turns.take(class).await;
                        }
                        shuttle::future::yield_now().await;
                    }
                    drop(turn);
                }));
            }
            let leaving = {
                let turns = turns.clone();
                shuttle::future::spawn(async move { drop(turns.take(Interactive).await) })
            };
            shuttle::future::block_on(async move {
                shuttle::future::yield_now().await;
                leaving.abort();
                for one in all {
                    one.await.unwrap();
                }
                let _ = leaving.await;
            });
            assert_eq!(turns.free(), 2);
            assert_eq!(turns.waiting(), [0, 0, 0]);
        },
        2_000,
    );
}
