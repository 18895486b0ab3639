//! What a window needs of an engine, and what it is offered.

/// What a window needs of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A slot beside others.
    Shared,
    /// A slot beyond those of an engine on the processor: another window pauses for this one.
    Extra,
    /// An engine on which nothing else runs.
    Exclusive {
        /// No other window may begin there until then.
        drain: bool,
    },
    /// The engine for windows under suspicion, so that others go on meanwhile.
    Isolated,
}

/// Where a window could run now.
#[derive(Debug)]
pub(crate) enum Offer<S> {
    /// Here.
    Slot(S),
    /// Later.
    Wait,
    /// Later, and no other window of this model may begin before.
    Drain,
    /// Not at all, until a client asks again.
    Broken(String),
}
