//! Whether a GPU that was given up can be trusted again.

use std::sync::Arc;
use std::time::Duration;

use super::complaints::silent_reason;
use super::reference;
use super::replica::START_LIMIT;
use crate::engine::{DecodeOptions, Engine, EngineSpec, StartEngine, WindowEvent};

/// The reference clip may take so long on a GPU on probation.
const PROBE_LIMIT: Duration = Duration::from_secs(120);

/// Starts an engine on the GPU and compares its words with those of the engine that serves.
pub(super) async fn probe_gpu(
    starter: &dyn StartEngine,
    spec: &EngineSpec,
    serving: &Arc<dyn Engine>,
) -> Result<Arc<dyn Engine>, String> {
    let engine = starter
        .start(spec, START_LIMIT)
        .await
        .map_err(|error| error.to_string())?;
    if !engine.report().gpu {
        return Err(silent_reason(engine.report()));
    }
    let got = words_of(&engine).await?;
    let expected = words_of(serving).await?;
    if got == expected {
        Ok(engine)
    } else {
        Err(format!("it hears {got:?} where the CPU hears {expected:?}"))
    }
}

async fn words_of(engine: &Arc<dyn Engine>) -> Result<Vec<String>, String> {
    let options = DecodeOptions {
        language: Some("en".to_owned()),
        ..DecodeOptions::default()
    };
    let mut window = engine.submit(Arc::new(reference::samples()), options, 1);
    let ended = async {
        loop {
            if let WindowEvent::Ended(outcome) = window.next().await {
                return outcome;
            }
        }
    };
    match tokio::time::timeout(PROBE_LIMIT, ended).await {
        Ok(Ok(transcript)) => Ok(reference::words(&transcript)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PROBE_LIMIT.as_secs())),
    }
}
