//! Round robin over requests inside a priority class, one class after the other.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use super::class::PriorityClass;

/// Numbers requests for fairness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// A number nobody has.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Waiting windows of all requests.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Requests in the order of their turns, one ring for each class.
    rings: [VecDeque<RequestId>; PriorityClass::ALL.len()],
    windows: HashMap<RequestId, VecDeque<T>>,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            rings: Default::default(),
            windows: HashMap::new(),
        }
    }

    pub(super) fn push(&mut self, request: RequestId, class: PriorityClass, item: T) {
        self.line(request, class).push_back(item);
    }

    /// For a window that runs again: it is the first of its request, and its request the first of its class.
    pub(super) fn push_front(&mut self, request: RequestId, class: PriorityClass, item: T) {
        self.line(request, class).push_front(item);
        let ring = &mut self.rings[class as usize];
        ring.retain(|other| *other != request);
        ring.push_front(request);
    }

    fn line(&mut self, request: RequestId, class: PriorityClass) -> &mut VecDeque<T> {
        let ring = &mut self.rings[class as usize];
        self.windows.entry(request).or_insert_with(|| {
            ring.push_back(request);
            VecDeque::new()
        })
    }

    /// Takes the next request's first window that `ready` accepts; that request goes to the end of the line.
    pub(super) fn take_next(&mut self, mut ready: impl FnMut(&T) -> bool) -> Option<T> {
        for ring in &mut self.rings {
            for _ in 0..ring.len() {
                let Some(request) = ring.pop_front() else { break };
                let Some(line) = self.windows.get_mut(&request) else {
                    continue;
                };
                let take = line.front().is_some_and(&mut ready);
                let item = if take { line.pop_front() } else { None };
                if line.is_empty() {
                    self.windows.remove(&request);
                } else {
                    ring.push_back(request);
                }
                if item.is_some() {
                    return item;
                }
            }
        }
        None
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.windows.values().flatten()
    }

    /// Takes out what is not to be kept.
    pub(super) fn take_out(&mut self, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for line in self.windows.values_mut() {
            if line.iter().all(&keep) {
                continue;
            }
            for item in std::mem::take(line) {
                if keep(&item) {
                    line.push_back(item);
                } else {
                    out.push(item);
                }
            }
        }
        if !out.is_empty() {
            self.windows.retain(|_, line| !line.is_empty());
            for ring in &mut self.rings {
                ring.retain(|request| self.windows.contains_key(request));
            }
        }
        out
    }

    pub(super) fn len(&self) -> usize {
        self.windows.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PriorityClass::{Batch, Interactive, Realtime};

    #[test]
    fn a_short_request_is_served_after_one_window_of_a_long_one() {
        let (long, short) = (RequestId::next(), RequestId::next());
        let mut queue = Queue::new();
        for i in 0..100 {
            queue.push(long, Interactive, ("long", i));
        }
        assert_eq!(queue.take_next(|_| true), Some(("long", 0)));
        queue.push(short, Interactive, ("short", 0));
        let order: Vec<_> = (0..3).filter_map(|_| queue.take_next(|_| true)).collect();
        assert_eq!(order, [("long", 1), ("short", 0), ("long", 2)]);
    }

    #[test]
    fn the_classes_are_served_one_after_the_other() {
        let mut queue = Queue::new();
        queue.push(RequestId::next(), Batch, "batch");
        queue.push(RequestId::next(), Interactive, "interactive");
        queue.push(RequestId::next(), Realtime, "realtime");
        let order: Vec<_> = (0..4).filter_map(|_| queue.take_next(|_| true)).collect();
        assert_eq!(order, ["realtime", "interactive", "batch"]);
    }

    #[test]
    fn a_window_that_runs_again_comes_before_everybody_of_its_class() {
        let (one, other) = (RequestId::next(), RequestId::next());
        let mut queue = Queue::new();
        queue.push(one, Interactive, 3);
        queue.push(other, Interactive, 2);
        queue.push_front(other, Interactive, 1);
        let order: Vec<_> = (0..3).filter_map(|_| queue.take_next(|_| true)).collect();
        assert_eq!(order, [1, 3, 2]);
    }

    #[test]
    fn a_model_that_is_not_ready_does_not_hold_up_others() {
        let mut queue = Queue::new();
        queue.push(RequestId::next(), Interactive, "loading");
        queue.push(RequestId::next(), Interactive, "ready");
        assert_eq!(queue.take_next(|w| *w == "ready"), Some("ready"));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn windows_of_clients_that_left_are_taken_out() {
        let request = RequestId::next();
        let mut queue = Queue::new();
        for number in 0..4 {
            queue.push(request, Interactive, number);
        }
        assert_eq!(queue.take_out(|number| number % 2 == 0), [1, 3]);
        let order: Vec<_> = (0..3).filter_map(|_| queue.take_next(|_| true)).collect();
        assert_eq!(order, [0, 2]);
    }
}
