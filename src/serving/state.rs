//! What a model is doing.

/// What a model is doing; every question about readiness is answered from this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// On disk, with no engine: the next lease loads it.
    Absent,
    /// Its file is being fetched.
    Fetching(Fetch),
    /// Its engines load, or wait for memory.
    Loading,
    /// A window can run now.
    Ready,
    /// Its engines ended and are being started again; windows wait.
    Restarting,
    /// No engine can be started; one sentence says why.
    Broken(String),
    /// Its engines are being ended for want of memory or of work, or because the server stops.
    Retiring,
}

impl ModelState {
    /// Whether a request that comes now will be served without anybody's doing.
    pub fn serves(&self) -> bool {
        matches!(
            self,
            Self::Absent | Self::Loading | Self::Ready | Self::Restarting | Self::Retiring
        )
    }
}

impl std::fmt::Display for ModelState {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => out.write_str("the model is not loaded"),
            Self::Fetching(fetch) => fetch.fmt(out),
            Self::Loading => out.write_str("the model is loading"),
            Self::Ready => out.write_str("ready"),
            Self::Restarting => out.write_str("the engine is restarting"),
            Self::Broken(reason) => out.write_str(reason),
            Self::Retiring => out.write_str("the model is being unloaded"),
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetch {
    /// Catalogue name.
    pub model: String,
    /// Bytes of the current step that are done.
    pub done: u64,
    /// Bytes of the current step, where they are known.
    pub total: Option<u64>,
}

impl std::fmt::Display for Fetch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "fetching the model `{}`", self.model)?;
        match self.total {
            Some(total) if total > 0 => {
                write!(out, " ({} of {} MiB)", self.done >> 20, total >> 20)
            }
            _ => Ok(()),
        }
    }
}
