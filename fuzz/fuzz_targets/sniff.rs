//! Any bytes, any name: sniffing answers, and says the same twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whisper_backend_api::audio::UploadedAudio;

const NAMES: [Option<&str>; 4] = [None, Some("call.mp3"), Some("a.b.AAC"), Some("no extension")];

fuzz_target!(|data: &[u8]| {
    for name in NAMES {
        let mut upload = UploadedAudio::from_bytes(data, name).expect("memory is no disk");
        let first = upload.sniff();
        let again = upload.sniff();
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
        if let Ok(found) = first {
            assert!(found.offset < data.len() as u64, "the container starts behind the file");
        }
    }
});
