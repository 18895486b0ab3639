//! The engine that windows under suspicion have for themselves, one at a time: if one of them ends it, nobody else loses
//! anything. It runs on the processor whatever the model runs on: a second engine on the same GPU would share its memory,
//! for which the slots were counted without it, and on many drivers its fate, since a lost device is lost to every process;
//! and a window which a GPU cannot run gets its words all the same. Started when it is needed and memory for it is free at
//! that moment, ended when it is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::memory;
use super::model::EngineSlot;
use super::offer::Offer;
use super::replica::{EnginePlan, Placement, Rate, ReadyEngine, START_LIMIT, Shared};

/// The engine is ended after so long without work.
const IDLE: Duration = Duration::from_secs(30);
/// After a start that failed, the model's own engine is used instead for so long.
const FAILED_PAUSE: Duration = Duration::from_secs(30);

/// One engine with one slot, or none.
#[derive(Debug)]
pub(crate) struct Isolation {
    plan: EnginePlan,
    shared: Shared,
    state: Arc<Mutex<State>>,
    rate: Arc<Rate>,
}

#[derive(Debug)]
enum State {
    Off,
    Starting,
    Ready(ReadyEngine),
    /// Not before that time.
    Failed(Instant),
    /// The model is unloaded.
    Stopped,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Isolation {
    pub(crate) fn new(plan: EnginePlan, shared: Shared) -> Self {
        Self {
            plan,
            shared,
            state: Arc::new(Mutex::new(State::Off)),
            rate: Arc::default(),
        }
    }

    /// The engine, when no window has it; starts it when there is none. `Broken` when none can be had.
    pub(crate) fn offer(&self) -> Offer<EngineSlot> {
        let mut state = lock(&self.state);
        match &*state {
            State::Ready(ready) => {
                // One that has just ended is cleared away by whoever keeps it.
                let permit = ready
                    .slots
                    .take_alone()
                    .filter(|_| ready.engine.death().is_none());
                return match permit {
                    Some(permit) => Offer::Slot(EngineSlot::new(ready.clone(), permit)),
                    None => Offer::Wait,
                };
            }
            State::Starting | State::Stopped => return Offer::Wait,
            State::Failed(until) if Instant::now() < *until => {
                return Offer::Broken("no second engine can be started".to_owned());
            }
            State::Off | State::Failed(_) => {}
        }
        let weights = memory::weights(&self.plan.spec.model);
        if memory::available_bytes().is_some_and(|free| free < memory::engine_bytes(weights, 1)) {
            *state = State::Failed(Instant::now() + FAILED_PAUSE);
            return Offer::Broken("there is no memory for a second engine".to_owned());
        }
        *state = State::Starting;
        drop(state);
        tokio::spawn(keep(
            self.plan.clone(),
            self.state.clone(),
            self.shared.clone(),
            self.rate.clone(),
        ));
        Offer::Wait
    }
}

impl Drop for Isolation {
    fn drop(&mut self) {
        *lock(&self.state) = State::Stopped;
    }
}

/// Starts the engine and ends it when it has nothing to do.
async fn keep(plan: EnginePlan, state: Arc<Mutex<State>>, shared: Shared, rate: Arc<Rate>) {
    let mut spec = plan.spec_for(Placement::Cpu, 1);
    spec.slots = 1;
    let started = plan.starter.start(&spec, START_LIMIT).await;
    let engine = match started {
        Ok(engine) => engine,
        Err(error) => {
            tracing::warn!(%error, "no second engine for windows under suspicion");
            let outside = error.is_outside();
            let mut state = lock(&state);
            if !matches!(*state, State::Stopped) {
                // One that somebody killed while it started is simply started again.
                *state = if outside {
                    State::Off
                } else {
                    State::Failed(Instant::now() + FAILED_PAUSE)
                };
            }
            drop(state);
            shared.changed();
            return;
        }
    };
    let ready = ReadyEngine {
        engine: engine.clone(),
        slots: Arc::default(),
        rate,
    };
    {
        let mut state = lock(&state);
        if matches!(*state, State::Stopped) {
            return;
        }
        *state = State::Ready(ready.clone());
    }
    shared.changed();
    let mut gone = engine.watch();
    let mut idle_since = Instant::now();
    let mut completed = 0;
    loop {
        tokio::select! {
            _ = gone.wait_for(|gone| *gone) => break,
            () = tokio::time::sleep(IDLE / 10) => {}
        }
        let now = ready.slots.completed();
        if ready.slots.taken() > 0 || now != completed {
            (idle_since, completed) = (Instant::now(), now);
        }
        let mut state = lock(&state);
        let over = idle_since.elapsed() > IDLE && ready.slots.taken() == 0;
        if over || matches!(*state, State::Stopped) {
            if over {
                *state = State::Off;
            }
            return;
        }
    }
    {
        let mut state = lock(&state);
        if !matches!(*state, State::Stopped) {
            *state = State::Off;
        }
    }
    shared.changed();
}
