//! An engine as the scheduler sees it: windows go in, events come out. [`super::process`] is the real one; tests of time
//! and failure script their own.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::error::EngineError;
use super::message::{DecodeOptions, EngineSpec, ToEngine};
use crate::domain::DeviceReport;
use crate::transcript::WindowTranscript;

/// A future of a trait's method.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A running engine: one set of weights on one device.
pub trait Engine: Send + Sync + Debug {
    /// What it runs on.
    fn report(&self) -> &DeviceReport;
    /// Gives it a window. The window holds its slot and cores until [`WindowEvent::Ended`], also after a cancellation.
    fn submit(&self, samples: Arc<Vec<f32>>, options: DecodeOptions, threads: u32) -> RunningWindow;
    /// Ends it; the windows that run on it end with `Died` of [`super::DeathCause::Outside`] and this status.
    fn kill(&self, status: &str);
    /// Why it is gone, once it is.
    fn death(&self) -> Option<EngineError>;
    /// Becomes true when it is gone.
    fn watch(&self) -> watch::Receiver<bool>;
}

/// Starts engines.
pub trait StartEngine: Send + Sync + Debug {
    /// Starts one and waits, at most `limit`, until it is warm.
    ///
    /// # Errors
    ///
    /// `StartFailed` with its reason when it says so; `Died` when it ends without a word; `Hung` after `limit`.
    fn start<'a>(
        &'a self,
        spec: &'a EngineSpec,
        limit: Duration,
    ) -> Boxed<'a, Result<Arc<dyn Engine>, EngineError>>;
}

/// What happens to a window.
#[derive(Debug)]
pub enum WindowEvent {
    /// A slot has taken it: its time begins.
    Started,
    /// It uses so many cores now.
    Threads(usize),
    /// The end; nothing follows.
    Ended(Result<WindowTranscript, EngineError>),
}

/// A message for an engine, with the samples that go with it.
#[derive(Debug, Clone)]
pub struct Order {
    /// The message.
    pub message: ToEngine,
    /// Empty but for windows.
    pub samples: Arc<Vec<f32>>,
}

/// A window that was given to an engine.
#[derive(Debug)]
pub struct RunningWindow {
    remote: WindowRemote,
    events: mpsc::UnboundedReceiver<WindowEvent>,
}

impl RunningWindow {
    /// `events` comes from the engine; `orders` go to it.
    pub fn new(
        id: u64,
        orders: mpsc::UnboundedSender<Order>,
        events: mpsc::UnboundedReceiver<WindowEvent>,
    ) -> Self {
        let remote = WindowRemote { id, orders };
        Self { remote, events }
    }

    /// The next event.
    ///
    /// # Cancel safety
    ///
    /// Safe: no event is lost.
    pub async fn next(&mut self) -> WindowEvent {
        let lost = || WindowEvent::Ended(Err(EngineError::outside("its engine was dropped")));
        self.events.recv().await.unwrap_or_else(lost)
    }

    /// Its switches, for whoever decides about it.
    pub fn remote(&self) -> WindowRemote {
        self.remote.clone()
    }
}

/// Switches of a window that runs. An engine that is gone ignores them.
#[derive(Debug, Clone)]
pub struct WindowRemote {
    id: u64,
    orders: mpsc::UnboundedSender<Order>,
}

impl WindowRemote {
    fn order(&self, message: ToEngine) {
        let samples = Arc::default();
        let _ = self.orders.send(Order { message, samples });
    }

    /// Nobody wants it any more; the engine answers when it has stopped.
    pub fn cancel(&self) {
        self.order(ToEngine::Cancel { id: self.id });
    }

    /// It waits at its next step.
    pub fn pause(&self) {
        self.order(ToEngine::Pause { id: self.id });
    }

    /// It goes on.
    pub fn resume(&self) {
        self.order(ToEngine::Resume { id: self.id });
    }

    /// It may use so many cores; the engine answers when it does.
    pub fn set_threads(&self, threads: usize) {
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        self.order(ToEngine::Threads { id: self.id, threads });
    }
}
