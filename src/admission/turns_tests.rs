//! Turns on the ordinary runtime; `tests/turns_checked.rs` runs the same file under a model checker.

use std::time::Duration;

use super::turns::Turns;
use crate::schedule::PriorityClass;

const BATCH: PriorityClass = PriorityClass::Batch;
const INTERACTIVE: PriorityClass = PriorityClass::Interactive;

async fn now<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(1), work).await.ok()
}

#[tokio::test(start_paused = true)]
async fn a_clip_waits_for_one_window_of_a_long_recording_not_for_its_end() {
    let turns = Turns::new(1);
    let long = turns.take(INTERACTIVE).await;
    assert!(!turns.wanted(INTERACTIVE, true), "nobody waits");
    let clip = tokio::spawn({
        let turns = turns.clone();
        async move { turns.take(INTERACTIVE).await }
    });
    tokio::task::yield_now().await;
    assert!(!turns.wanted(INTERACTIVE, false), "it has not had its window yet");
    assert!(turns.wanted(INTERACTIVE, true));
    drop(long);
    let clip = now(clip).await.unwrap().unwrap();
    assert!(
        now(turns.take(INTERACTIVE)).await.is_none(),
        "the long one waits now"
    );
    drop(clip);
    assert_eq!(turns.free(), 1);
}

#[tokio::test(start_paused = true)]
async fn batch_gives_way_at_once_and_is_taken_last() {
    let turns = Turns::new(1);
    let batch = turns.take(BATCH).await;
    let mut more_batch = Box::pin(turns.take(BATCH));
    assert!(now(&mut more_batch).await.is_none());
    assert!(!turns.wanted(BATCH, false));
    let mut interactive = Box::pin(turns.take(INTERACTIVE));
    assert!(now(&mut interactive).await.is_none());
    assert!(turns.wanted(BATCH, false), "a better class waits");
    assert!(!turns.wanted(PriorityClass::Realtime, true));
    drop(batch);
    let interactive = now(interactive)
        .await
        .expect("it was second in arrival, first in class");
    assert!(now(&mut more_batch).await.is_none());
    drop(interactive);
    assert!(now(more_batch).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_line_takes_no_turn_along() {
    let turns = Turns::new(2);
    let (one, two) = (turns.take(BATCH).await, turns.take(BATCH).await);
    for _ in 0..10 {
        assert!(now(turns.take(INTERACTIVE)).await.is_none());
    }
    assert!(!turns.wanted(BATCH, true), "all have left");
    // A turn that was given and never taken up goes on as well.
    let mut gone = Box::pin(turns.take(INTERACTIVE));
    assert!(now(&mut gone).await.is_none());
    drop(one);
    drop(gone);
    drop(two);
    assert_eq!(turns.free(), 2);
    assert_eq!(turns.waiting(), [0, 0, 0]);
}
