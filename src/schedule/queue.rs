//! Round robin over requests, interactive before batch, and the account of cores in use.

use std::collections::{HashMap, VecDeque};

use super::RequestId;

/// Waiting windows of all requests.
#[derive(Debug)]
pub(super) struct Queue<T> {
    interactive: VecDeque<RequestId>,
    batch: VecDeque<RequestId>,
    windows: HashMap<RequestId, VecDeque<T>>,
    used_cores: usize,
    /// Running windows that give way to a guest.
    pub(super) giving_way: usize,
    /// Running windows beyond the core budget; somebody waits for each.
    pub(super) guests: usize,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            interactive: VecDeque::new(),
            batch: VecDeque::new(),
            windows: HashMap::new(),
            used_cores: 0,
            giving_way: 0,
            guests: 0,
        }
    }

    pub(super) fn push(&mut self, request: RequestId, batch: bool, item: T) {
        self.line(request, batch).push_back(item);
    }

    /// For a window that runs again: it is the first of its request.
    pub(super) fn push_front(&mut self, request: RequestId, batch: bool, item: T) {
        self.line(request, batch).push_front(item);
    }

    fn line(&mut self, request: RequestId, batch: bool) -> &mut VecDeque<T> {
        let ring = if batch {
            &mut self.batch
        } else {
            &mut self.interactive
        };
        self.windows.entry(request).or_insert_with(|| {
            ring.push_back(request);
            VecDeque::new()
        })
    }

    /// Takes the next request's first window that `ready` accepts; that request goes to the end of the line.
    pub(super) fn take_next(&mut self, mut ready: impl FnMut(&T) -> bool) -> Option<T> {
        for ring in [&mut self.interactive, &mut self.batch] {
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

    pub(super) fn any(&self, predicate: impl FnMut(&T) -> bool) -> bool {
        self.windows.values().filter_map(VecDeque::front).any(predicate)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for line in self.windows.values_mut() {
            line.retain(&mut keep);
        }
        self.windows.retain(|_, line| !line.is_empty());
        let windows = &self.windows;
        self.interactive.retain(|request| windows.contains_key(request));
        self.batch.retain(|request| windows.contains_key(request));
    }

    pub(super) fn len(&self) -> usize {
        self.windows.values().map(VecDeque::len).sum()
    }

    pub(super) fn used_cores(&self) -> usize {
        self.used_cores
    }

    pub(super) fn use_cores(&mut self, n: usize) {
        self.used_cores += n;
    }

    pub(super) fn release_cores(&mut self, n: usize) {
        self.used_cores = self.used_cores.saturating_sub(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_request_is_served_after_one_window_of_a_long_one() {
        let (long, short) = (RequestId(1), RequestId(2));
        let mut queue = Queue::new();
        for i in 0..100 {
            queue.push(long, false, ("long", i));
        }
        assert_eq!(queue.take_next(|_| true), Some(("long", 0)));
        queue.push(short, false, ("short", 0));
        let order: Vec<_> = (0..3).filter_map(|_| queue.take_next(|_| true)).collect();
        assert_eq!(order, [("long", 1), ("short", 0), ("long", 2)]);
    }

    #[test]
    fn batch_requests_wait_for_interactive_ones() {
        let mut queue = Queue::new();
        queue.push(RequestId(1), true, "batch");
        queue.push(RequestId(2), false, "interactive");
        assert_eq!(queue.take_next(|_| true), Some("interactive"));
        assert_eq!(queue.take_next(|_| true), Some("batch"));
        assert_eq!(queue.take_next(|_: &&str| true), None);
    }

    #[test]
    fn a_window_that_runs_again_is_its_requests_first() {
        let mut queue = Queue::new();
        queue.push(RequestId(1), false, 2);
        queue.push_front(RequestId(1), false, 1);
        assert_eq!(queue.take_next(|_| true), Some(1));
    }

    #[test]
    fn a_model_that_is_not_ready_does_not_hold_up_others() {
        let mut queue = Queue::new();
        queue.push(RequestId(1), false, "loading");
        queue.push(RequestId(2), false, "ready");
        assert_eq!(queue.take_next(|w| *w == "ready"), Some("ready"));
        assert_eq!(queue.len(), 1);
    }
}
