//! Memory that engines on the processor share: who takes how much of it, and who goes when another one wants in.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::known::KnownModels;
use super::memory;
use super::model::Model;

/// A model waits so long for memory that others hold before its requests are refused.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How often it looks meanwhile.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// The bound, and what is taken of it.
#[derive(Debug)]
pub struct Room {
    /// In bytes; without one everybody finds room.
    bound: Option<u64>,
    taken: Mutex<u64>,
    /// Those that may have to go.
    known: Weak<KnownModels>,
}

/// A part of the room; free again when dropped.
#[derive(Debug)]
pub(crate) struct RoomCharge {
    room: Arc<Room>,
    bytes: u64,
}

impl Drop for RoomCharge {
    fn drop(&mut self) {
        *self.room.lock() -= self.bytes;
    }
}

impl Room {
    pub(super) fn new(bound: Option<u64>, known: &Arc<KnownModels>) -> Arc<Self> {
        Arc::new(Self {
            bound,
            taken: Mutex::new(0),
            known: Arc::downgrade(known),
        })
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what engines take and this one are below the bound, ending models that nobody holds, the one used
    /// least recently first. An engine alone is always let in: whether it fits is for the system to say.
    ///
    /// # Errors
    ///
    /// One sentence, when those in use leave no room for [`PATIENCE`].
    pub(super) async fn take(self: &Arc<Self>, model: &Path, slots: usize) -> Result<RoomCharge, String> {
        let bytes = memory::engine_bytes(memory::weights(model), slots);
        let began = Instant::now();
        loop {
            let taken = {
                let mut taken = self.lock();
                let bound = self.bound.unwrap_or(u64::MAX);
                if *taken == 0 || taken.saturating_add(bytes) <= bound {
                    *taken += bytes;
                    return Ok(RoomCharge {
                        room: self.clone(),
                        bytes,
                    });
                }
                *taken
            };
            if self
                .known
                .upgrade()
                .is_some_and(|known| known.retire_oldest(Model::is_on_processor))
            {
                continue;
            }
            if began.elapsed() > PATIENCE {
                return Err(format!(
                    "`{}` needs {} MiB on the processor beside models in use that take {} of {} MiB (whisper.max_loaded_mb)",
                    model.display(),
                    bytes >> 20,
                    taken >> 20,
                    self.bound.unwrap_or(u64::MAX) >> 20,
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::engine::workshop::Workshop;
    use crate::metrics::Metrics;
    use crate::serving::{EnginePlan, Lease, ModelState, Placement};

    const MIB: u64 = 1 << 20;

    /// A workshop, models that are files of 100 MiB, and memory for one of them.
    struct Bench {
        folder: tempfile::TempDir,
        known: Arc<KnownModels>,
        room: Arc<Room>,
        workshop: Arc<Workshop>,
        metrics: Arc<Metrics>,
    }

    impl Bench {
        fn new() -> Self {
            let known = Arc::<KnownModels>::default();
            Self {
                folder: tempfile::tempdir().unwrap(),
                room: Room::new(Some(400 * MIB), &known),
                known,
                workshop: Arc::default(),
                metrics: Arc::default(),
            }
        }

        fn file(&self, name: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(100 * MIB).unwrap();
            path
        }

        /// As the registry does it, for a home on `placement`.
        async fn load(&self, name: &str, placement: Placement) -> Result<(Arc<Model>, Lease), String> {
            let file = self.file(name);
            let model = self.known.of(name, &file, true, &self.metrics);
            let (hold, _) = model.hold();
            let charge = match placement {
                Placement::Cpu => Some(self.room.take(&file, 1).await?),
                Placement::Gpu(_) => None,
            };
            let mut plan = EnginePlan::scripted(&self.workshop, 1);
            plan.spec.model = file;
            plan.room = Some(self.room.clone());
            model.live(&plan, &[placement], charge);
            Ok((model.clone(), Lease::new(model, hold)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_used_least_recently_goes_and_who_is_in_use_stays() {
        let bench = Bench::new();
        let (one, lease) = bench.load("one", Placement::Cpu).await.unwrap();
        lease.ready().await.unwrap();
        let refused = bench.load("two", Placement::Cpu).await.map(drop).unwrap_err();
        assert!(refused.contains("max_loaded_mb"), "{refused}");
        assert_eq!(one.state(), ModelState::Ready, "a request holds it");
        drop(lease);
        let (two, held) = bench.load("two", Placement::Cpu).await.unwrap();
        assert_eq!(one.state(), ModelState::Absent);
        drop((two, held));
        assert_eq!(bench.known.live().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_falls_back_to_the_processor_waits_for_memory_there() {
        let bench = Bench::new();
        let (on_cpu, held) = bench.load("cpu", Placement::Cpu).await.unwrap();
        held.ready().await.unwrap();
        let (on_gpu, _lease) = bench.load("gpu", Placement::Gpu(0)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(on_gpu.state(), ModelState::Ready, "a GPU's memory is its own");
        // Its GPU gives up; on the processor there is no room.
        bench.workshop.gpu_is_broken.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            let engine = bench.workshop.alive.lock().unwrap().last().unwrap().clone();
            engine.die(crate::engine::DeathCause::Own);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(PATIENCE + Duration::from_secs(2)).await;
        assert!(
            matches!(on_gpu.state(), ModelState::Broken(reason) if reason.contains("max_loaded_mb")),
            "{:?}",
            on_gpu.state()
        );
        assert_eq!(on_cpu.state(), ModelState::Ready);
        // When the other one is no longer in use, it goes.
        drop(held);
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(on_gpu.state(), ModelState::Ready);
        assert_eq!(on_cpu.state(), ModelState::Absent);
    }

    #[test]
    fn one_file_is_one_model_whatever_it_is_called() {
        let bench = Bench::new();
        let file = bench.file("a.bin");
        let round_about = bench.folder.path().join(".").join("a.bin");
        let one = bench.known.of("a", &file, true, &bench.metrics);
        let other = bench.known.of("b", &round_about, true, &bench.metrics);
        assert!(Arc::ptr_eq(&one, &other));
        #[cfg(unix)]
        {
            let link = bench.folder.path().join("link.bin");
            std::os::unix::fs::symlink(&file, &link).unwrap();
            assert!(Arc::ptr_eq(
                &one,
                &bench.known.of("c", &link, true, &bench.metrics)
            ));
        }
    }
}
