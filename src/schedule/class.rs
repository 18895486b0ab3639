//! Who is served first.

/// Priority class of a request. The order is the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PriorityClass {
    /// A session that is spoken now: every window has a listener.
    Realtime,
    /// A recording that somebody waits for.
    #[default]
    Interactive,
    /// A recording that nobody waits for: runs when the others leave room.
    Batch,
}

impl PriorityClass {
    /// All classes, first served first.
    pub const ALL: [Self; 3] = [Self::Realtime, Self::Interactive, Self::Batch];

    /// The name in settings, statistics and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }
}
