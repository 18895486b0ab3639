//! The whole program as a user meets it: a real process, real HTTP, real weights, real kills.
//! A scripted engine stands in only for states that a real one reaches once a year.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "server/decoders.rs"]
mod decoders;
#[path = "server/faults.rs"]
mod faults;
#[path = "server/gpus.rs"]
mod gpus;
#[path = "server/operation.rs"]
mod operation;
#[path = "server/serving.rs"]
mod serving;
#[path = "server/stopping.rs"]
mod stopping;
#[path = "server/support.rs"]
mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::transcripts::words;
use support::{
    JFK, fixture, is_running, kill, long_clip, model, post, post_and_hold, scripted, server, wav, with_model,
};

const MINUTE: Duration = Duration::from_secs(60);

/// With `base` the clip comes back word for word, whatever the form.
#[test]
fn the_jfk_clip_comes_back_word_for_word_in_all_five_formats() {
    let server = with_model("base", "").start();
    let clip = fixture("jfk.wav");
    let expected = words(JFK);
    let form = |format: &str| server.transcript(&clip, &[("response_format", format)]);

    let json: Value = serde_json::from_str(&form("json")).unwrap();
    assert_eq!(words(json["text"].as_str().unwrap()), expected);

    let text = form("text");
    assert!(text.ends_with(".\n") && !text.ends_with("\n\n"), "{text:?}");
    assert_eq!(words(&text), expected);

    let verbose: Value = serde_json::from_str(&form("verbose_json")).unwrap();
    assert_eq!(words(verbose["text"].as_str().unwrap()), expected);
    assert_eq!(verbose["language"], "english");
    assert!(
        (verbose["duration"].as_f64().unwrap() - 11.0).abs() < 0.05,
        "{verbose}"
    );
    let segments = verbose["segments"].as_array().unwrap();
    let joined: String = segments.iter().map(|s| s["text"].as_str().unwrap()).collect();
    assert_eq!(words(&joined), expected);

    let srt = form("srt");
    assert!(
        srt.starts_with("1\n00:00:00,") && srt.ends_with("\n\n\n"),
        "{srt:?}"
    );
    let spoken: Vec<&str> = srt
        .lines()
        .filter(|l| !l.contains("-->") && l.parse::<u32>().is_err())
        .collect();
    assert_eq!(words(&spoken.join(" ")), expected);

    let vtt = form("vtt");
    assert!(vtt.starts_with("WEBVTT\n\n00:00:00."), "{vtt:?}");
    let spoken: Vec<&str> = vtt.lines().skip(1).filter(|l| !l.contains("-->")).collect();
    assert_eq!(words(&spoken.join(" ")), expected);
}

#[test]
fn words_have_times_in_order_within_the_recording() {
    let server = with_model("tiny.en", "").start();
    let fields = [
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "word"),
    ];
    let body: Value = serde_json::from_str(&server.transcript(&fixture("jfk.wav"), &fields)).unwrap();
    let words = body["words"].as_array().unwrap();
    assert!(words.len() >= 20, "{body}");
    assert!(body.get("segments").is_none(), "{body}");
    let mut clock = 0.0;
    for word in words {
        let (start, end) = (word["start"].as_f64().unwrap(), word["end"].as_f64().unwrap());
        assert!(
            clock <= start && start <= end && end <= 11.01,
            "{word} after {clock}"
        );
        clock = end;
    }
    // «ask not what your country»: between three and six seconds in by ear.
    let country = words.iter().find(|w| w["word"] == "country").unwrap();
    assert!(
        (4.5..8.0).contains(&country["start"].as_f64().unwrap()),
        "{country}"
    );
}

#[test]
fn an_engine_killed_in_the_middle_of_a_request_costs_nobody_a_word() {
    let mut server = with_model("tiny.en", "").start();
    let port = server.port;
    let clip = long_clip(8);
    let request = std::thread::spawn(move || post(port, &clip, &[]));
    server.wait_until("a window is done and another runs", MINUTE, |s| {
        let stats = s.json("/stats");
        stats["windows"]["total"].as_u64() >= Some(1) && stats["queue"]["windows_running"].as_i64() >= Some(1)
    });
    kill(server.engine_pids()[0], "KILL");
    let (status, body) = request.join().unwrap();
    assert_eq!(status, 200, "{body}");
    let text = serde_json::from_str::<Value>(&body).unwrap()["text"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(text.matches("fellow Americans").count(), 8, "{text}");
    let stats = server.json("/stats");
    assert_eq!(stats["engine"]["restarts"], 1, "{stats}");
    assert!(stats["windows"]["retries"].as_u64() >= Some(1), "{stats}");
    assert_eq!(server.json("/health")["status"], "ok");
}

#[test]
fn an_engine_that_dies_while_idle_is_back_before_the_next_request() {
    let mut server = with_model("tiny.en", "").start();
    let first = server.engine_pids()[0];
    kill(first, "KILL");
    server.wait_until("a new engine is ready", MINUTE, |s| {
        s.try_get("/health").is_some_and(|(status, _)| status == 200) && s.engine_pids() != [first]
    });
    assert!(
        server
            .transcript(&fixture("jfk.wav"), &[])
            .contains("fellow Americans")
    );
}

#[test]
fn a_window_that_aborts_its_engine_runs_again() {
    let script = json!({ "action": "abort", "once": "$FOLDER/aborted", "text": " All is well." });
    let server = scripted(&script, "").start();
    assert!(
        server
            .transcript(&fixture("jfk.wav"), &[])
            .contains("All is well.")
    );
    assert_eq!(server.json("/stats")["engine"]["restarts"], 1);
}

#[test]
fn a_recording_that_kills_every_engine_is_a_500_for_that_request_alone() {
    let server = scripted(&json!({ "action": "abort" }), "").start();
    let (status, body) = server.post(&fixture("jfk.wav"), &[]);
    assert_eq!(status, 500, "{body}");
    let error: Value = serde_json::from_str(&body).unwrap();
    assert!(error["error"]["message"].is_string(), "{body}");
    assert!(server.try_get("/stats").is_some());
}

#[test]
fn a_hung_window_is_killed_and_runs_again() {
    let config = "[performance]\nwatchdog_min_seconds = 0.2\n";
    let script = json!({ "action": "hang", "once": "$FOLDER/hung", "text": " Awake." });
    let server = scripted(&script, config).start();
    assert!(server.transcript(&fixture("jfk.wav"), &[]).contains("Awake."));
    assert_eq!(server.json("/stats")["engine"]["watchdog_kills"], 1);
}

/// The clip on the left, and again on the right 13 s later: a call with a speaker on each side.
#[test]
fn each_side_of_a_call_is_transcribed_by_itself_on_one_clock() {
    let clip = fixture("jfk.wav");
    let silence = vec![0; 13 * 32_000];
    let left = [&clip[44..], &silence].concat();
    let right = [&silence, &clip[44..]].concat();
    let sides = left.chunks_exact(2).zip(right.chunks_exact(2));
    let call: Vec<u8> = sides.flat_map(|(l, r)| [l, r].concat()).collect();
    let mut file = wav(&call);
    file[22] = 2; // channels
    file[28..32].copy_from_slice(&64_000_u32.to_le_bytes());
    file[32] = 4; // bytes of a frame

    let server = with_model("tiny.en", "").start();
    let body = server.transcript(
        &file,
        &[("response_format", "verbose_json"), ("separate_channels", "true")],
    );
    let answer: Value = serde_json::from_str(&body).unwrap();
    let side = |channel: u64| {
        let segments = answer["segments"].as_array().unwrap().iter();
        segments.filter(move |s| s["channel"] == channel)
    };
    for channel in [0, 1] {
        let said: String = side(channel).map(|s| s["text"].as_str().unwrap()).collect();
        assert!(said.contains("fellow Americans"), "{body}");
    }
    assert!(side(0).all(|s| s["end"].as_f64().unwrap() < 12.5), "{body}");
    assert!(side(1).all(|s| s["start"].as_f64().unwrap() > 12.5), "{body}");
}

#[test]
fn one_doubtful_window_does_not_change_the_language_and_a_sure_one_does() {
    let script = json!({ "text": " Yes.", "heard": [["en", 0.95], ["cy", 0.4], ["en", 0.95], ["de", 0.95], ["de", 0.5]] });
    let server = scripted(&script, "[performance]\nwhisper_threads = 1\n").start();
    let fields = [
        ("response_format", "verbose_json"),
        ("language_mode", "per_window"),
    ];
    let answer: Value = serde_json::from_str(&server.transcript(&long_clip(3), &fields)).unwrap();
    let languages: Vec<&str> = answer["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|segment| segment["language"].as_str().unwrap())
        .collect();
    assert!(languages.len() >= 5, "{answer}");
    assert_eq!(languages[..5], ["en", "en", "en", "de", "de"], "{answer}");
    assert_eq!(answer["languages"][0]["code"], "en");
    assert_eq!(answer["languages"][1]["code"], "de");
}

#[test]
fn each_channel_of_a_call_finds_its_own_language() {
    let script = json!({ "heard": [["en", 0.95], ["ja", 0.95]] });
    let server = scripted(&script, "[performance]\nwhisper_threads = 1\n").start();
    let clip = fixture("jfk.wav");
    let call: Vec<u8> = clip[44..]
        .chunks_exact(2)
        .flat_map(|sample| [sample, sample].concat())
        .collect();
    let mut file = wav(&call);
    file[22] = 2; // channels
    file[28..32].copy_from_slice(&64_000_u32.to_le_bytes());
    file[32] = 4; // bytes of a frame
    // The answer of fast transcription names each phrase's language.
    let (content_type, form) = support::form(&file, &[("definition", "{\"channels\":[0,1]}")]);
    let part = b"name=\"file\"";
    let at = form
        .windows(part.len())
        .position(|window| window == part)
        .unwrap();
    let body = [&form[..at], b"name=\"audio\"", &form[at + part.len()..]].concat();
    let url = format!(
        "http://127.0.0.1:{}/speechtotext/transcriptions:transcribe",
        server.port
    );
    let mut response = ureq::post(&url)
        .header("content-type", content_type)
        .send(&body[..])
        .unwrap();
    let answer: Value = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
    let locale = |channel: u64| {
        let phrases = answer["phrases"].as_array().unwrap();
        let phrase = phrases.iter().find(|phrase| phrase["channel"] == channel);
        phrase.map(|phrase| phrase["locale"].as_str().unwrap().to_owned())
    };
    let both = [locale(0).unwrap(), locale(1).unwrap()];
    assert!(
        both.contains(&"en-US".to_owned()) && both.contains(&"ja-JP".to_owned()),
        "{answer}"
    );
}

#[test]
fn an_answer_that_is_the_vocabulary_is_decoded_again_without_it() {
    let script =
        json!({ "text": " Real words were said.", "on": { "Kyoto": { "text": " Kyoto, Nara, Osaka." } } });
    let server = scripted(&script, "").start();
    let clip = fixture("jfk.wav");
    let keywords = [
        ("keywords[]", "Kyoto"),
        ("keywords[]", "Nara"),
        ("keywords[]", "Osaka"),
    ];
    let said = server.transcript(&clip, &keywords);
    assert!(said.contains("Real words were said."), "{said}");
    assert!(!said.contains("Kyoto"), "{said}");
}

#[test]
fn a_large_model_that_does_not_keep_up_is_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("ggml-medium.bin");
    support::stand_in::write_wide(&model, 2048);
    // Five seconds of sound take nearly as many: nobody sent any.
    let mut server = scripted(&json!({ "delay_ms": 4500 }), "")
        .model_file(&model)
        .start();
    assert!(
        server.json("/health").get("slow_model").is_none(),
        "readiness does not wait for it"
    );
    server.wait_until("the model is called slow", MINUTE, |s| {
        s.output
            .lock()
            .unwrap()
            .contains("seconds of audio a second here")
    });
    assert!(
        server
            .output
            .lock()
            .unwrap()
            .contains("`small-q8_0` would do three")
    );
    let advice = &server.json("/health")["slow_model"];
    assert_eq!(advice["model"], "small-q8_0", "{advice}");
}

#[test]
fn a_held_chord_is_answered_with_no_words() {
    let server = with_model("tiny.en", "").start();
    let chord: Vec<u8> = (0..160_000)
        .map(|i| f64::from(i) / 16_000.0 * std::f64::consts::TAU)
        .map(|t| {
            [261.63, 329.63, 392.0]
                .map(|hertz| (t * hertz).sin())
                .iter()
                .sum::<f64>()
        })
        .flat_map(|value| ((value * 5_000.0) as i16).to_le_bytes())
        .collect();
    let answer: Value = serde_json::from_str(&server.transcript(&wav(&chord), &[])).unwrap();
    assert_eq!(answer["text"], "");
}

#[test]
fn a_short_clip_does_not_wait_for_the_windows_of_a_long_recording() {
    let script = json!({ "delay_ms": 1500, "text": " Window." });
    let mut server = scripted(&script, "[performance]\nwhisper_threads = 2\n").start();
    let port = server.port;
    let recording = long_clip(12);
    let long = std::thread::spawn(move || post(port, &recording, &[("language", "en")]));
    server.wait_until("both cores work for the long recording", MINUTE, |s| {
        let stats = s.json("/stats");
        stats["windows"]["total"].as_u64() >= Some(1) && stats["queue"]["windows_running"] == 2
    });
    let short = std::thread::spawn(move || post(port, &fixture("jfk.wav"), &[("language", "en")]));
    server.wait_until("the clip runs beside them", MINUTE, |s| {
        s.json("/stats")["queue"]["windows_running"] == 3
    });
    let (status, body) = short.join().unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(!long.is_finished());
    let (status, body) = long.join().unwrap();
    assert_eq!(status, 200, "{body}");
    let windows = server.json("/stats")["windows"]["total"].as_u64().unwrap();
    assert_eq!(
        body.matches("Window.").count() as u64,
        windows - 1,
        "a window that gave way is whole: {body}"
    );
}

#[test]
fn a_window_that_always_hangs_ends_as_an_error_not_as_a_wait() {
    let server = scripted(
        &json!({ "action": "hang" }),
        "[performance]\nwatchdog_min_seconds = 0.1\n",
    )
    .start();
    let (status, body) = server.post(&fixture("jfk.wav"), &[]);
    assert_eq!(status, 500, "{body}");
    assert_eq!(server.json("/stats")["engine"]["watchdog_kills"], 2);
}

#[test]
fn an_engine_that_cannot_start_is_told_by_health_and_by_a_503() {
    let mut server = scripted(&json!({ "start": "refuse" }), "").unready().start();
    server.wait_until("the reason is known", MINUTE, |s| {
        s.json("/health")["status"] == "unavailable"
    });
    assert!(
        server.json("/health")["reason"]
            .as_str()
            .unwrap()
            .contains("refuses"),
        "{}",
        server.said()
    );
    let (status, body) = server.post(&fixture("jfk.wav"), &[]);
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("refuses"), "{body}");
}

#[test]
fn sigterm_lets_a_running_request_finish_and_takes_the_engine_along() {
    let mut server = scripted(&json!({ "delay_ms": 1500, "text": " To the end." }), "").start();
    let engine = server.engine_pids()[0];
    let port = server.port;
    let request = std::thread::spawn(move || post(port, &fixture("jfk.wav"), &[]));
    server.wait_until("the request runs", MINUTE, |s| {
        s.json("/stats")["queue"]["windows_running"].as_i64() >= Some(1)
    });
    server.signal("TERM");
    let (status, body) = request.join().unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("To the end."), "{body}");
    assert_eq!(server.wait_exit(MINUTE), Some(0), "{}", server.said());
    assert!(!is_running(engine));
}

#[test]
fn the_grace_time_is_a_limit() {
    let config = "[server]\nshutdown_grace_seconds = 1\n";
    let mut server = scripted(&json!({ "delay_ms": 600_000 }), config).start();
    let held = post_and_hold(server.port, &fixture("jfk.wav"), &[]);
    server.wait_until("the request runs", MINUTE, |s| {
        s.json("/stats")["queue"]["windows_running"].as_i64() >= Some(1)
    });
    server.signal("TERM");
    assert_eq!(
        server.wait_exit(Duration::from_secs(20)),
        Some(0),
        "{}",
        server.said()
    );
    drop(held);
}

#[test]
fn an_engine_never_outlives_a_killed_server() {
    let mut server = with_model("tiny.en", "").start();
    let engine = server.engine_pids()[0];
    server.signal("KILL");
    server.wait_exit(MINUTE);
    let began = std::time::Instant::now();
    while is_running(engine) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "engine {engine} still runs"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_that_leaves_frees_its_work() {
    let mut server = scripted(&json!({ "delay_ms": 600_000 }), "").start();
    let held = post_and_hold(server.port, &fixture("jfk.wav"), &[]);
    server.wait_until("the request runs", MINUTE, |s| {
        s.json("/stats")["queue"]["windows_running"].as_i64() >= Some(1)
    });
    drop(held);
    server.wait_until("its window is given up", MINUTE, |s| {
        let stats = s.json("/stats");
        stats["queue"]["windows_running"] == 0
            && stats["requests"]["in_flight"] == 0
            && stats["requests"]["cancelled"] == 1
    });
}

#[test]
fn one_request_too_many_is_told_when_to_come_back() {
    let config = "[performance]\nmax_concurrent_requests = 1\nqueue_length = 0\n";
    let mut server = scripted(&json!({ "delay_ms": 600_000 }), config).start();
    let held = post_and_hold(server.port, &fixture("jfk.wav"), &[]);
    server.wait_until("the place is taken", MINUTE, |s| {
        s.json("/stats")["requests"]["in_flight"] == 1
    });
    let (status, body) = server.post(&fixture("jfk.wav"), &[]);
    assert_eq!(status, 429, "{body}");
    assert_eq!(server.json("/stats")["requests"]["busy"], 1);
    drop(held);
    server.wait_until("the place is free", MINUTE, |s| {
        s.json("/stats")["requests"]["in_flight"] == 0
    });
}

#[test]
fn a_short_clip_does_not_wait_for_a_long_file() {
    let mut server = scripted(&json!({ "delay_ms": 400 }), "").start();
    let port = server.port;
    let long = std::thread::spawn(move || post(port, &long_clip(40), &[]));
    server.wait_until("the long file is under way", MINUTE, |s| {
        s.json("/stats")["windows"]["total"].as_u64() >= Some(2)
    });
    server.transcript(&fixture("jfk.wav"), &[]);
    assert!(!long.is_finished(), "the clip waited for the whole file");
    assert_eq!(long.join().unwrap().0, 200);
}

#[test]
fn silence_is_empty_text_and_never_reaches_the_engine() {
    let server = scripted(&json!({ "text": " Thanks for watching!" }), "").start();
    let body: Value = serde_json::from_str(&server.transcript(&wav(&vec![0; 16_000 * 2 * 20]), &[])).unwrap();
    assert_eq!(body["text"], "");
    assert_eq!(server.json("/stats")["windows"]["total"], 0);
}

#[test]
fn an_idle_engine_is_unloaded_and_comes_back_for_the_next_request() {
    let mut server = with_model("tiny.en", "[whisper]\nidle_unload_seconds = 1\n").start();
    let engine = server.engine_pids()[0];
    server.wait_until("the engine is gone", MINUTE, |_| !is_running(engine));
    assert_eq!(server.json("/health")["status"], "ok");
    assert!(
        server
            .transcript(&fixture("jfk.wav"), &[])
            .contains("fellow Americans")
    );
}

#[test]
fn the_fallback_model_serves_when_the_configured_one_is_missing_and_everybody_says_so() {
    let fallback = model("tiny.en");
    let config = format!(
        "[whisper]\nmodel_path = \"models/ggml-large-v3-turbo-q5_0.bin\"\nauto_download = false\nfallback_model = {:?}\n",
        fallback.display().to_string()
    );
    let server = server(&config).start();
    let health = server.json("/health");
    assert_eq!(health["model"], "tiny.en", "{health}");
    assert!(
        health["model_notice"]
            .as_str()
            .unwrap()
            .contains("large-v3-turbo-q5_0"),
        "{health}"
    );
    assert!(server.said().contains("large-v3-turbo-q5_0"), "{}", server.said());
    let models = server.json("/models");
    let listed = models["data"].as_array().unwrap();
    assert!(
        listed.iter().any(|m| m["default"] == true && m["loaded"] == true),
        "{models}"
    );
    assert!(
        server
            .transcript(&fixture("jfk.wav"), &[])
            .contains("fellow Americans")
    );
}

#[test]
fn deployments_choose_their_model_and_strict_mode_refuses_strangers() {
    let config = format!(
        "[server]\nstrict_deployments = true\n[deployments]\nwhisper = {:?}\n",
        model("tiny.en").display().to_string()
    );
    let server = with_model("tiny.en", &config).start();
    assert!(
        server
            .transcript(&fixture("jfk.wav"), &[])
            .contains("fellow Americans")
    );
    let (status, body) = {
        let (content_type, body) = support::form(&fixture("jfk.wav"), &[]);
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .new_agent();
        let mut response = agent
            .post(format!(
                "http://127.0.0.1:{}/openai/deployments/nobody/audio/transcriptions?api-version=2024-02-01",
                server.port
            ))
            .header("content-type", content_type)
            .send(&body[..])
            .unwrap();
        (
            response.status().as_u16(),
            response.body_mut().read_to_string().unwrap(),
        )
    };
    assert_eq!(status, 404, "{body}");
    assert!(body.contains("DeploymentNotFound"), "{body}");
}

#[test]
fn the_diagnostic_routes_answer_with_everything_promised() {
    let server = with_model("tiny.en", "").start();
    let gpu = server.json("/gpu-status");
    for key in [
        "gpu_requested",
        "gpu_actually_enabled",
        "backend",
        "device",
        "reason",
        "compiled_backends",
        "environment",
        "libraries",
        "device_nodes",
        "platform",
        "fallbacks",
        "recommendations",
    ] {
        assert!(gpu.get(key).is_some(), "{key} is missing in {gpu}");
    }
    if cfg!(not(any(
        feature = "cuda",
        feature = "vulkan",
        feature = "opencl",
        feature = "hipblas",
        feature = "metal"
    ))) {
        assert_eq!(
            (&gpu["gpu_requested"], &gpu["gpu_actually_enabled"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(gpu["backend"], "CPU");
        assert!(gpu["reason"].as_str().unwrap().len() > 10, "{gpu}");
    }
    for name in [
        "WHISPER_CUBLAS",
        "WHISPER_OPENCL",
        "CUDA_PATH",
        "LD_LIBRARY_PATH",
        "CUDA_VISIBLE_DEVICES",
    ] {
        assert!(
            gpu["environment"].get(name).is_some(),
            "{name} is missing in {gpu}"
        );
    }
    let health = server.json("/health");
    assert_eq!(
        (&health["status"], &health["model"]),
        (&json!("ok"), &json!("tiny.en"))
    );
    assert!(health["uptime_seconds"].as_f64().unwrap() > 0.0);
    let languages = server.json("/languages");
    assert_eq!(languages["data"].as_array().unwrap().len(), 100);
    let before = server.json("/stats");
    server.transcript(&fixture("jfk.wav"), &[]);
    let after = server.json("/stats");
    assert_eq!(
        after["requests"]["succeeded"].as_u64(),
        before["requests"]["succeeded"].as_u64().map(|n| n + 1)
    );
    assert!(
        (after["audio_seconds"].as_f64().unwrap() - 11.0).abs() < 0.05,
        "{after}"
    );
    assert!(after["real_time_factor"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_banner_and_the_run_lines_are_japanese_where_the_locale_is() {
    let server = with_model("tiny.en", "").env("LC_ALL", "ja_JP.UTF-8").start();
    server.transcript(&fixture("jfk.wav"), &[]);
    let said = server.said();
    for line in [
        "=== GPU設定情報 ===",
        "設定でGPU有効化: true",
        "✓ Whisperモデルを読み込みました:",
        "🖥️  CPU使用で文字起こしを開始します...",
        "⏱️  推論処理時間:",
    ] {
        assert!(said.contains(line), "{line} is missing in\n{said}");
    }
    assert!(!said.contains("GPUアクセラレーションが有効です"), "{said}");
}

#[test]
fn with_keys_configured_only_health_is_open() {
    let server = with_model("tiny.en", "[server]\napi_keys = [\"secret-key-for-tests\"]\n").start();
    let (status, body) = server.post(&fixture("jfk.wav"), &[]);
    assert_eq!(status, 401, "{body}");
    for path in ["/gpu-status", "/stats", "/models", "/v1/models"] {
        assert_eq!(server.try_get(path).unwrap().0, 401, "{path}");
    }
    assert_eq!(server.try_get("/health").unwrap().0, 200);
}

/// Starts the program and gives exit code and what it said.
fn run_to_end(config: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_WhisperBackendAPI"))
        .current_dir(folder.path())
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .env_remove("WHISPER_MODEL")
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    (output.status.code(), said)
}

#[test]
fn a_misspelt_key_stops_the_start_with_file_key_and_what_is_accepted() {
    let (code, said) = run_to_end("[server]\nprot = 8080\n", &["serve"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("config.toml") && said.contains("prot") && said.contains("`port`"),
        "{said}"
    );
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, said) = run_to_end("", &["serve", "--port", &port]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&port) && said.contains("in use") && said.contains("--port"),
        "{said}"
    );
}

#[test]
fn a_damaged_model_file_is_refused_before_whisper_cpp_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ggml-broken.bin");
    let whole = std::fs::read(model("tiny.en")).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let (code, said) = run_to_end(
        "[whisper]\nauto_download = false\nfallback_model = \"none-such\"\n",
        &[
            "transcribe",
            "--model",
            &path.display().to_string(),
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jfk.wav"),
        ],
    );
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ggml-broken.bin"), "{said}");
}

#[test]
fn transcribe_prints_a_file_without_a_server() {
    let model = model("tiny.en").display().to_string();
    let clip = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jfk.wav");
    let (code, said) = run_to_end("", &["transcribe", "--model", &model, "--format", "srt", clip]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("-->") && said.contains("fellow Americans"),
        "{said}"
    );
    let (code, said) = run_to_end(
        "",
        &["transcribe", "--model", "no-such-model", "no-such-file.wav"],
    );
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no-such-file.wav"), "{said}");
    // The file comes before the model, and its trouble is told once.
    assert!(!said.contains("no-such-model"), "{said}");
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
}

#[test]
fn transcribe_takes_folders_and_writes_where_it_is_told() {
    let model = model("tiny.en").display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let (recordings, results) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::create_dir(&recordings).unwrap();
    for name in ["a.wav", "b.wav"] {
        std::fs::write(recordings.join(name), fixture("jfk.wav")).unwrap();
    }
    std::fs::write(recordings.join("notes.txt"), "not a recording").unwrap();
    let (from, to) = (recordings.display().to_string(), results.display().to_string());
    let arguments = [
        "transcribe",
        "--model",
        &model,
        "--format",
        "srt",
        "--subtitle-style",
        "netflix",
        "--output",
        &to,
        &from,
    ];
    let (code, said) = run_to_end("", &arguments);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 transcribed, 0 failed"), "{said}");
    let srt = std::fs::read_to_string(results.join("a.srt")).unwrap();
    assert!(
        srt.contains("-->") && srt.lines().all(|line| line.len() <= 42),
        "{srt}"
    );
    assert!(results.join("b.srt").exists() && !results.join("notes.srt").exists());
}

#[test]
fn check_config_shows_every_value_and_hides_keys() {
    let (code, said) = run_to_end(
        "[server]\nport = 9999\napi_keys = [\"topsecret\"]\n",
        &["check-config"],
    );
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("port = 9999  # config.toml") && said.contains("beam_size = \"auto\""),
        "{said}"
    );
    assert!(!said.contains("topsecret"), "{said}");
}

#[test]
fn doctor_reports_as_text_and_as_json() {
    let model = model("tiny.en").display().to_string();
    let (code, said) = run_to_end("", &["doctor", "--json", "--model", &model]);
    assert_eq!(code, Some(0), "{said}");
    let start = said.find('{').unwrap();
    let report: Value = serde_json::from_str(said[start..].trim()).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(report["health"]["status"], "ok", "{said}");
    assert!(report["gpu"]["reason"].is_string(), "{said}");
    let (code, said) = run_to_end("", &["doctor", "--model", &model]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("GPU"), "{said}");
}

#[test]
fn the_language_list_and_the_catalogue_need_no_model() {
    let (code, said) = run_to_end("", &["models", "list"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("large-v3-turbo") && said.contains("base-q8_0"),
        "{said}"
    );
}
