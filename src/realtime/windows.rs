//! A session's passes into the scheduler, and how many sessions there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::agreement::Token;
use super::session::{Heard, Pass, PassError, PassKind};
use crate::config::{Config, Switch};
use crate::engine::{DecodeOptions, EngineError};
use crate::metrics::Metrics;
use crate::schedule::{Deadline, PriorityClass, RequestId, Scheduler, WindowTask};
use crate::serving::{DefaultModel, Lease, Registry, ServingError};
use crate::speech::SAMPLE_RATE_HZ;
use crate::transcript::{Place, Task, believed};

/// What the sessions need of the rest. The real one is [`LiveWindows`]; tests may script one.
pub trait Recognizer: Send + Sync + 'static {
    /// Keeps the model of this name (`None` is the default) loaded while what comes back is held.
    fn hold(&self, name: Option<String>) -> BoxFuture<'static, Result<Hold, ServingError>>;
    /// Runs a pass. Dropping the future stops it.
    fn run(&self, pass: Pass) -> BoxFuture<'static, Result<Heard, PassError>>;
    /// Sessions that may be open at once.
    fn capacity(&self) -> usize;
}

/// A session's hold on its model.
pub type Hold = Arc<dyn std::any::Any + Send + Sync>;

/// Once something has failed, a pass waits so long for an engine: its words would come too late.
const PASS_DEADLINE: Duration = Duration::from_secs(60);

/// Sessions a core carries, where `realtime.max_sessions` is "auto": with a small model one core transcribes about ten
/// times as fast as is spoken, and each session asks for its audio several times over.
const SESSIONS_A_CORE: usize = 2;
/// The same where a GPU does the work.
const SESSIONS_ON_A_GPU: usize = 32;

/// Sessions on the server's own models.
#[derive(Debug, Clone)]
pub struct LiveWindows {
    config: Arc<Config>,
    registry: Arc<Registry>,
    scheduler: Scheduler,
}

impl LiveWindows {
    /// Ties the parts together.
    pub fn new(config: Arc<Config>, registry: Arc<Registry>, scheduler: Scheduler) -> Self {
        Self {
            config,
            registry,
            scheduler,
        }
    }

    async fn lease(&self, name: Option<&str>) -> Result<Lease, ServingError> {
        match (name, self.registry.default_model()) {
            (Some(name), _) => self.registry.resolve(name).await,
            // By its own name: without one, strict servers would refuse.
            (None, DefaultModel::Known { model, .. }) => self.registry.resolve(&model.name).await,
            (None, _) => self.registry.resolve("").await,
        }
    }

    async fn pass(&self, pass: Pass) -> Result<Heard, PassError> {
        let began = Instant::now();
        let unavailable = |error: ServingError| {
            tracing::warn!(%error, "no model for a realtime session");
            PassError::Unavailable
        };
        let lease = self.lease(pass.model.as_deref()).await.map_err(unavailable)?;
        lease.ready().await.map_err(unavailable)?;
        let gpu = lease.model().reports().first().is_some_and(|report| report.gpu);
        let whisper = &self.config.whisper;
        let configured =
            (whisper.language != "auto" && pass.languages.is_empty()).then(|| whisper.language.clone());
        let place = Place {
            start: 0.0,
            length: pass.samples.len() as f32 / SAMPLE_RATE_HZ as f32,
            voiced: Some(pass.voiced_seconds),
            channel: None,
        };
        let options = DecodeOptions {
            task: Task::Transcribe,
            language: pass.language.or(configured),
            candidate_languages: pass.languages,
            prompt: pass.prompt,
            short_context: match whisper.short_context {
                Switch::On => true,
                Switch::Off => false,
                Switch::Auto => !gpu,
            },
            prefix: pass.prefix,
            draft: pass.kind == PassKind::Partial,
            ..DecodeOptions::default()
        };
        let task = WindowTask {
            request: RequestId::next(),
            class: PriorityClass::Realtime,
            first: true,
            lease,
            samples: pass.samples,
            options,
            deadline: Deadline::new(PASS_DEADLINE),
        };
        let window = self.scheduler.run(task).await.map_err(|error| match error {
            EngineError::Unavailable { .. } | EngineError::StartFailed { .. } => PassError::Unavailable,
            error => {
                tracing::warn!(%error, "a realtime pass failed");
                PassError::Failed
            }
        })?;
        let (language, doubtful) = (window.language.clone(), window.doubtful);
        let tokens = believed(place, window).into_iter().map(|token| Token {
            id: token.id,
            bytes: token.bytes,
            logprob: token.logprob,
        });
        Ok(Heard {
            tokens: tokens.collect(),
            language,
            doubtful,
            took: began.elapsed(),
        })
    }
}

impl Recognizer for LiveWindows {
    fn hold(&self, name: Option<String>) -> BoxFuture<'static, Result<Hold, ServingError>> {
        let windows = self.clone();
        Box::pin(async move {
            let lease = windows.lease(name.as_deref()).await?;
            Ok(Arc::new(lease) as Hold)
        })
    }

    fn run(&self, pass: Pass) -> BoxFuture<'static, Result<Heard, PassError>> {
        let windows = self.clone();
        Box::pin(async move { windows.pass(pass).await })
    }

    fn capacity(&self) -> usize {
        let gpu = match self.registry.default_model() {
            DefaultModel::Known { model, .. } => model.reports().first().is_some_and(|report| report.gpu),
            _ => false,
        };
        let auto = if gpu {
            SESSIONS_ON_A_GPU
        } else {
            self.scheduler.cores() * SESSIONS_A_CORE
        };
        self.config.realtime.max_sessions.or(auto)
    }
}

/// Counts sessions.
#[derive(Debug)]
pub struct Places {
    taken: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

/// A session's place; free again when dropped.
#[derive(Debug)]
pub struct SessionPlace {
    taken: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        self.metrics.realtime_sessions.add(-1);
    }
}

/// When a client that found no place may ask again.
pub const RETRY_AFTER: Duration = Duration::from_secs(10);

impl Places {
    /// None taken.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            taken: Arc::default(),
            metrics,
        }
    }

    /// A place, if fewer than `most` are taken.
    pub fn take(&self, most: usize) -> Option<SessionPlace> {
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < most).then_some(now + 1)
            })
            .ok()?;
        self.metrics.realtime_sessions.add(1);
        Some(SessionPlace {
            taken: self.taken.clone(),
            metrics: self.metrics.clone(),
        })
    }

    /// Sessions now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}
