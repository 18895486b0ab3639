//! `Store::pull` from a hub: whatever happens on the way, the file is the published one or not there.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};
use tempfile::TempDir;
use whisper_backend_api::models::{Catalogue, ModelError, Progress, PullOptions, Silent, Store};

use crate::server::{ETAG, Hub, Reply, nobody};
use crate::{Recorder, files, hex};

const FILE: &str = "ggml-fake.bin";
const SIZE: usize = 700_000;

fn contents(seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..SIZE)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

struct Bench {
    folder: TempDir,
    store: Store,
    contents: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let contents = contents(1);
        let catalogue = format!(
            "[[model]]\nname = \"fake\"\nbytes = {SIZE}\nsha1 = \"{}\"\nlanguages = \"english\"\nmels = 80\n[[model.source]]\nkind = \"hub\"\n",
            hex(&Sha1::digest(&contents))
        );
        let store = Store::with_catalogue(folder.path(), Catalogue::parse(&catalogue).unwrap());
        Self {
            folder,
            store,
            contents,
        }
    }

    fn hub(&self, replies: &[Reply]) -> Hub {
        Hub::start(self.contents.clone(), replies.to_vec())
    }

    fn is_installed(&self) -> bool {
        match fs::read(self.folder.path().join(FILE)) {
            Ok(bytes) => {
                assert!(bytes == self.contents, "a wrong file stands under the final name");
                true
            }
            Err(_) => false,
        }
    }

    fn part_bytes(&self) -> Option<u64> {
        fs::metadata(self.folder.path().join(format!("{FILE}.part")))
            .ok()
            .map(|m| m.len())
    }
}

fn options(hub: &str) -> PullOptions {
    PullOptions {
        hub: Some(hub.to_owned()),
        cache: None,
        retry_pause: Duration::from_millis(1),
        ..PullOptions::default()
    }
}

#[test]
fn a_download_installs_the_file_and_leaves_nothing_else() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::Honest]);
    let path = bench.store.pull("fake", &options(&hub.url), &Silent).unwrap();
    assert_eq!(path, bench.folder.path().join(FILE));
    assert!(bench.is_installed());
    assert_eq!(files(bench.folder.path()), [FILE]);
    assert_eq!(
        hub.requests()[0].path,
        format!("/ggerganov/whisper.cpp/resolve/main/{FILE}")
    );
    // A second pull finds it there.
    bench.store.pull("fake", &options(&nobody()), &Silent).unwrap();
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn a_cut_connection_is_continued_where_it_ended() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::CutAfter(300_000), Reply::CutAfter(100_000), Reply::Honest]);
    let recorder = Recorder::default();
    bench.store.pull("fake", &options(&hub.url), &recorder).unwrap();
    assert!(bench.is_installed());
    let ranges: Vec<_> = hub.requests().into_iter().map(|request| request.range).collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=300000-".to_owned()),
            Some("bytes=400000-".to_owned())
        ]
    );
    assert_eq!(hub.requests()[1].if_range.as_deref(), Some(ETAG));
    assert!(recorder.notes().contains("cut"), "{}", recorder.notes());
}

#[test]
fn a_download_that_fails_leaves_no_file_but_a_part_for_the_next_try() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::CutAfter(250_000), Reply::CutAfter(0)]);
    let error = bench.store.pull("fake", &options(&hub.url), &Silent).unwrap_err();
    assert!(
        matches!(&error, ModelError::NoSource { attempts, .. } if attempts.len() == 1),
        "{error}"
    );
    assert!(error.to_string().contains("250000 of 700000"), "{error}");
    assert!(!bench.is_installed());
    assert_eq!(bench.part_bytes(), Some(250_000));

    let hub = bench.hub(&[Reply::Honest]);
    let recorder = Recorder::default();
    bench.store.pull("fake", &options(&hub.url), &recorder).unwrap();
    assert!(bench.is_installed());
    assert_eq!(hub.requests()[0].range.as_deref(), Some("bytes=250000-"));
    assert!(
        recorder.notes().contains("resuming at 250000"),
        "{}",
        recorder.notes()
    );
    assert_eq!(files(bench.folder.path()), [FILE]);
}

#[test]
fn a_hub_that_ignores_ranges_sends_the_whole_file_again() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::CutAfter(300_000), Reply::IgnoreRange]);
    bench.store.pull("fake", &options(&hub.url), &Silent).unwrap();
    assert!(bench.is_installed());
    assert_eq!(hub.requests()[1].range.as_deref(), Some("bytes=300000-"));
}

#[test]
fn wrong_contents_are_refused_and_thrown_away() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::Wrong(contents(2))]);
    let error = bench.store.pull("fake", &options(&hub.url), &Silent).unwrap_err();
    assert!(matches!(error, ModelError::ChecksumMismatch { .. }), "{error}");
    assert!(
        error.to_string().contains(&hex(&Sha1::digest(contents(2)))),
        "{error}"
    );
    assert_eq!(files(bench.folder.path()), Vec::<String>::new());
}

#[test]
fn a_part_of_another_file_is_replaced_by_a_whole_download() {
    let bench = Bench::new();
    fs::write(
        bench.folder.path().join(format!("{FILE}.part")),
        &contents(3)[..100_000],
    )
    .unwrap();
    let hub = bench.hub(&[Reply::Honest]);
    bench.store.pull("fake", &options(&hub.url), &Silent).unwrap();
    assert!(bench.is_installed());
    let ranges: Vec<_> = hub.requests().into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [Some("bytes=100000-".to_owned()), None]);
}

#[test]
fn statuses_end_or_repeat_the_download() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::Status(404)]);
    let error = bench
        .store
        .pull("fake", &options(&hub.url), &Silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("404") && error.contains(&hub.url), "{error}");
    assert_eq!(
        hub.requests().len(),
        1,
        "a file that is not there is not asked for again"
    );

    let hub = bench.hub(&[Reply::Status(503)]);
    let error = bench
        .store
        .pull("fake", &options(&hub.url), &Silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("503"), "{error}");
    assert!(hub.requests().len() > 1, "a busy hub is asked again");
    assert_eq!(files(bench.folder.path()), Vec::<String>::new());

    let hub = bench.hub(&[Reply::Status(503), Reply::Honest]);
    bench.store.pull("fake", &options(&hub.url), &Silent).unwrap();
    assert!(bench.is_installed());
}

#[test]
fn a_page_in_place_of_the_file_is_refused_by_its_size() {
    let bench = Bench::new();
    let hub = Hub::start(b"<html>please log in</html>".to_vec(), vec![Reply::Honest]);
    let error = bench
        .store
        .pull("fake", &options(&hub.url), &Silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("26 bytes") && error.contains("700000"), "{error}");
    assert_eq!(files(bench.folder.path()), Vec::<String>::new());
}

#[test]
fn a_hub_that_is_not_there_is_given_up_at_once() {
    let bench = Bench::new();
    let begun = Instant::now();
    let error = bench
        .store
        .pull("fake", &options(&nobody()), &Silent)
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(
        matches!(&error, ModelError::NoSource { name, .. } if name == "fake"),
        "{error}"
    );
    assert!(error.to_string().contains("cannot connect"), "{error}");
}

#[test]
fn a_second_process_waits_or_is_refused() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::Honest]);
    // What another process holds while it downloads.
    let lock = fs::File::create(bench.folder.path().join(format!(".{FILE}.lock"))).unwrap();
    lock.lock().unwrap();
    let refuse = PullOptions {
        wait: false,
        ..options(&hub.url)
    };
    let error = bench.store.pull("fake", &refuse, &Silent).unwrap_err();
    assert!(matches!(error, ModelError::Busy { .. }), "{error}");
    assert!(hub.requests().is_empty());

    let recorder = Recorder::default();
    thread::scope(|scope| {
        let (store, options) = (&bench.store, options(&hub.url));
        scope.spawn(|| {
            // The other process installs the file and goes.
            while !recorder.notes().contains("waiting") {
                thread::sleep(Duration::from_millis(5));
            }
            fs::write(bench.folder.path().join(FILE), &bench.contents).unwrap();
            lock.unlock().unwrap();
        });
        store.pull("fake", &options, &recorder).unwrap();
    });
    assert!(bench.is_installed());
    assert!(hub.requests().is_empty(), "the file of the other process is used");
    assert_eq!(files(bench.folder.path()), [FILE]);
}

#[test]
fn two_pulls_at_once_download_once() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::Honest]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| bench.store.pull("fake", &options(&hub.url), &Silent).unwrap());
        }
    });
    assert!(bench.is_installed());
    assert_eq!(hub.requests().len(), 1);
    assert_eq!(files(bench.folder.path()), [FILE]);
}

#[test]
fn cancelling_stops_in_the_middle_and_keeps_the_part() {
    struct StopsAt(Arc<AtomicBool>);
    impl Progress for StopsAt {
        fn begin(&self, _what: &str, _total: Option<u64>) {}
        fn advance(&self, bytes: u64) {
            if bytes > 0 {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        fn note(&self, _text: &str) {}
    }
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::Honest]);
    let cancel = Arc::new(AtomicBool::new(false));
    let options = PullOptions {
        cancel: Some(Arc::clone(&cancel)),
        ..options(&hub.url)
    };
    let error = bench.store.pull("fake", &options, &StopsAt(cancel)).unwrap_err();
    assert!(matches!(error, ModelError::Cancelled), "{error}");
    assert!(!bench.is_installed());
    assert!(
        bench
            .part_bytes()
            .is_some_and(|bytes| bytes > 0 && bytes < SIZE as u64)
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_nothing_stays_behind() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::Honest]);
    let part = bench.folder.path().join(format!("{FILE}.part"));
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let error = bench.store.pull("fake", &options(&hub.url), &Silent).unwrap_err();
    assert!(matches!(error, ModelError::DiskFull { .. }), "{error}");
    assert_eq!(files(bench.folder.path()), Vec::<String>::new());
    // With room again, all is well.
    bench.store.pull("fake", &options(&hub.url), &Silent).unwrap();
    assert!(bench.is_installed());
}

#[test]
fn the_cache_serves_a_wiped_folder_and_is_never_trusted_blindly() {
    let bench = Bench::new();
    let cache = TempDir::new().unwrap();
    let hub = bench.hub(&[Reply::Honest]);
    let with_cache = |hub: &str| PullOptions {
        cache: Some(cache.path().to_owned()),
        ..options(hub)
    };
    bench.store.pull("fake", &with_cache(&hub.url), &Silent).unwrap();
    fs::remove_file(bench.folder.path().join(FILE)).unwrap();

    let recorder = Recorder::default();
    bench
        .store
        .pull("fake", &with_cache(&nobody()), &recorder)
        .unwrap();
    assert!(bench.is_installed());
    assert!(recorder.notes().contains("cache"), "{}", recorder.notes());

    // A damaged copy is dropped and the hub asked.
    fs::remove_file(bench.folder.path().join(FILE)).unwrap();
    let [cached] = &files(cache.path())[..] else {
        panic!("one file is cached")
    };
    fs::write(cache.path().join(cached), contents(4)).unwrap();
    bench.store.pull("fake", &with_cache(&hub.url), &Silent).unwrap();
    assert!(bench.is_installed());
    assert_eq!(hub.requests().len(), 2);

    // Removing a model frees the disk: the cached copy goes too.
    assert_eq!(
        bench.store.remove("fake", Some(cache.path())).unwrap(),
        SIZE as u64
    );
    assert_eq!(files(cache.path()), Vec::<String>::new());
    assert!(!bench.is_installed());
}

#[test]
fn a_damaged_installed_file_is_fetched_anew() {
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::Honest]);
    fs::write(bench.folder.path().join(FILE), &contents(1)[..SIZE / 2]).unwrap();
    bench.store.pull("fake", &options(&hub.url), &Silent).unwrap();
    assert!(bench.is_installed());
}

#[test]
fn progress_counts_every_byte_once_over_a_resumed_download() {
    struct Downloaded(Recorder, std::sync::Mutex<u64>);
    impl Progress for Downloaded {
        fn begin(&self, what: &str, total: Option<u64>) {
            if what.starts_with("checking") {
                *self.1.lock().unwrap() = self.0.bytes();
            }
            self.0.begin(what, total);
        }
        fn advance(&self, bytes: u64) {
            self.0.advance(bytes);
        }
        fn note(&self, text: &str) {
            self.0.note(text);
        }
    }
    let bench = Bench::new();
    let hub = bench.hub(&[Reply::CutAfter(300_000), Reply::Honest]);
    let progress = Downloaded(Recorder::default(), std::sync::Mutex::new(0));
    bench.store.pull("fake", &options(&hub.url), &progress).unwrap();
    assert_eq!(*progress.1.lock().unwrap(), SIZE as u64);
}
