//! Any text as an event of a realtime client: it is refused, or obeyed by a session that then still ends well.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use whisper_backend_api::realtime::events::{self, ClientEvent};
use whisper_backend_api::realtime::session::{Heard, Opening, Session, SpeechSettings};
use whisper_backend_api::realtime::settings::{Dialect, Settings};
use whisper_backend_api::speech::LiveVoice;

/// Audio of one event that is worth the fuzzer's time.
const MOST_BYTES: usize = 4096;

fuzz_target!(|text: &str| {
    let opening = Opening {
        id: "sess_fuzz".to_owned(),
        settings: Settings::new(None, 16_000, true),
        dialect: Dialect::Current,
        intermediate: true,
        expires_at: 0,
        speech: SpeechSettings {
            threshold: 0.5,
            threshold_end: 0.4,
            min_speech: Duration::from_millis(100),
            max_window: Duration::from_secs(28),
        },
    };
    let mut session = Session::new(opening, Box::new(LiveVoice::default())).expect("16 kHz needs no filter");
    for line in text.lines().take(64) {
        match events::parse(line) {
            Ok(incoming) => {
                let event = match incoming.event {
                    ClientEvent::Append(mut bytes) => {
                        bytes.truncate(MOST_BYTES);
                        ClientEvent::Append(bytes)
                    }
                    event => event,
                };
                session.handle(event, incoming.event_id);
            }
            Err(refusal) => session.refuse(refusal),
        }
        for event in session.take_events() {
            let text = events::to_json("event_1", &event);
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    }
    session.drain();
    while let Some(pass) = session.next_pass() {
        session.finished(pass.id, Ok(Heard::default()));
    }
    session.take_events();
    assert!(session.is_idle());
});
