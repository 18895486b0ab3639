//! A session's passes into the scheduler, and how many sessions this machine carries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::agreement::Token;
use super::session::{Heard, Pass, PassError, PassKind};
use crate::config::{Config, Switch};
use crate::engine::{DecodeOptions, EngineError};
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

/// Times that the model works through what is spoken in a session, where `realtime.max_sessions` is "auto": once for its
/// transcript, and about twice for partial results that come every four seconds, the longest step before a session
/// does without them. The last quarter is room: sessions speak when they like.
const LOOKS_AT_ALL_THAT_IS_SAID: f64 = 4.0;
/// Sessions a core takes in any case, since a machine that is busy otherwise is measured slower than it is: what it
/// cannot carry gets whole turns.
const LEAST_A_CORE: usize = 1;
/// Sessions a core takes before the model's speed is known.
const SESSIONS_A_CORE: usize = 2;
/// Sessions where a GPU does the work.
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
            live: true,
            ..DecodeOptions::default()
        };
        let task = WindowTask {
            waiter: None,
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
        let (gpu, rate) = match self.registry.default_model() {
            DefaultModel::Known { model, .. } => (
                model.reports().first().is_some_and(|report| report.gpu),
                model.core_seconds_per_second(),
            ),
            _ => (false, None),
        };
        let auto = if gpu {
            SESSIONS_ON_A_GPU
        } else {
            carried(self.scheduler.cores(), rate)
        };
        self.config.realtime.max_sessions.or(auto)
    }
}

/// Sessions that so many cores carry with a model that takes `rate` seconds of one core for each second of audio.
fn carried(cores: usize, rate: Option<f64>) -> usize {
    let sessions = rate
        .filter(|rate| *rate > 0.0)
        .map(|rate| cores as f64 / (rate * LOOKS_AT_ALL_THAT_IS_SAID));
    sessions
        .map_or(cores * SESSIONS_A_CORE, |sessions| sessions as usize)
        .max(cores * LEAST_A_CORE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faster_machine_or_model_carries_more_sessions_and_any_one_a_core() {
        assert_eq!(carried(2, None), 4);
        assert_eq!(carried(2, Some(0.1)), 5);
        assert_eq!(carried(16, Some(0.1)), 40);
        assert_eq!(carried(2, Some(0.02)), 25);
        assert_eq!(carried(2, Some(2.0)), 2);
        assert_eq!(carried(1, Some(0.0)), 2);
    }
}
