//! A real server in a folder of its own, and just enough of a client.

#[path = "../engines/stand_in.rs"]
pub mod stand_in;
#[path = "transcripts.rs"]
pub mod transcripts;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Where `build.sh test` puts the weights that tests need.
pub fn model(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/ggml-{name}.bin"));
    assert!(
        path.exists(),
        "the tests need a real model; run `./build.sh test`, or `cargo run -- models pull {name}`"
    );
    path
}

pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The JFK clip's samples so many times in a row, as WAV.
pub fn long_clip(times: usize) -> Vec<u8> {
    let clip = fixture("jfk.wav");
    let data = &clip[44..];
    wav(&data.repeat(times))
}

/// Mono 16-bit 16 kHz samples as WAV.
pub fn wav(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&(36 + data.len() as u32).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    out.extend_from_slice(&16_000u32.to_le_bytes());
    out.extend_from_slice(&32_000u32.to_le_bytes());
    out.extend_from_slice(b"\x02\0\x10\0data");
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out.extend_from_slice(data);
    out
}

pub const JFK: &str = "and so my fellow americans ask not what your country can do for you ask what you can do for your country";

/// A running server; killed when dropped.
pub struct Server {
    pub child: Child,
    pub port: u16,
    /// Removed with the server.
    folder: tempfile::TempDir,
    pub output: Arc<Mutex<String>>,
}

pub struct Builder {
    config: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    wait: bool,
    /// A scripted server names its model on the command line.
    named: bool,
}

/// A server with these settings (TOML) on a free port.
pub fn server(config: &str) -> Builder {
    Builder {
        config: config.to_owned(),
        environment: Vec::new(),
        arguments: Vec::new(),
        wait: true,
        named: true,
    }
}

/// A server with this model.
pub fn with_model(name: &str, config: &str) -> Builder {
    let mut builder = server(config);
    builder
        .arguments
        .extend(["--model".to_owned(), model(name).display().to_string()]);
    builder
}

/// A server whose engine follows a script.
pub fn scripted(script: &Value, config: &str) -> Builder {
    let mut builder = server(config);
    builder
        .environment
        .push(("SCRIPT".to_owned(), script.to_string()));
    builder
}

impl Builder {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a model of the settings, which lies in the folder of models, and none on the command line.
    pub fn without_model(mut self) -> Self {
        self.named = false;
        self.config
            .push_str("[whisper]\nmodel_path = \"models/ggml-first.bin\"\n");
        self
    }

    /// Another model file than the stand-in.
    pub fn model_file(mut self, path: &Path) -> Self {
        self.arguments
            .extend(["--model".to_owned(), path.display().to_string()]);
        self
    }

    /// Does not wait until it is healthy.
    pub fn unready(mut self) -> Self {
        self.wait = false;
        self
    }

    pub fn start(self) -> Server {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), &self.config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_WhisperBackendAPI"));
        let port = free_port();
        command
            .current_dir(folder.path())
            .args(["serve", "--port", &port.to_string()])
            .args(&self.arguments)
            .env_remove("WHISPER_MODEL")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, value) in &self.environment {
            if name == "SCRIPT" {
                let path = folder.path().join("script.json");
                let value = value.replace("$FOLDER", &folder.path().display().to_string());
                std::fs::write(&path, value).unwrap();
                command
                    .env("SCRIPTED_ENGINE", path)
                    .env("TEST_ENGINE_PROGRAM", env!("CARGO_BIN_EXE_scripted-engine"));
                if !self.named {
                    std::fs::create_dir(folder.path().join("models")).unwrap();
                    stand_in::write(&folder.path().join("models/ggml-first.bin"));
                } else if !self.arguments.iter().any(|argument| argument == "--model") {
                    command.args(["--model", &stand_in::model().display().to_string()]);
                }
            } else {
                command.env(name, value);
            }
        }
        let mut child = command.spawn().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), output.clone());
        collect(child.stderr.take().unwrap(), output.clone());
        let mut server = Server {
            child,
            port,
            folder,
            output,
        };
        if self.wait {
            server.wait_until("it is healthy", Duration::from_secs(120), |s| {
                s.try_get("/health").is_some_and(|(status, _)| status == 200)
            });
        } else {
            server.wait_until("it listens", Duration::from_secs(20), |s| {
                s.try_get("/languages").is_some()
            });
        }
        server
    }
}

fn collect(from: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            let mut text = into.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A multipart body and its content type.
pub fn form(file: &[u8], fields: &[(&str, &str)]) -> (String, Vec<u8>) {
    let boundary = "----a-boundary-nobody-uses";
    let mut body = Vec::new();
    for (name, value) in fields {
        write!(
            body,
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
        .unwrap();
    }
    write!(
        body,
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"clip.wav\"\r\n\r\n"
    )
    .unwrap();
    body.extend_from_slice(file);
    write!(body, "\r\n--{boundary}--\r\n").unwrap();
    (format!("multipart/form-data; boundary={boundary}"), body)
}

pub const ROUTE: &str = "/openai/deployments/whisper/audio/transcriptions?api-version=2024-02-01";

impl Server {
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!(
                    "waiting until {what}: the server ended with {status}\n{}",
                    self.said()
                );
            }
            assert!(
                began.elapsed() < limit,
                "{limit:?} are over before {what}\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where its settings are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn said(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    pub fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .new_agent();
        let mut response = agent
            .get(format!("http://127.0.0.1:{}{path}", self.port))
            .call()
            .ok()?;
        let status = response.status().as_u16();
        Some((status, response.body_mut().read_to_string().ok()?))
    }

    pub fn json(&self, path: &str) -> Value {
        let (_, body) = self
            .try_get(path)
            .unwrap_or_else(|| panic!("GET {path}\n{}", self.said()));
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("GET {path}: {e}: {body}"))
    }

    pub fn post(&self, file: &[u8], fields: &[(&str, &str)]) -> (u16, String) {
        post(self.port, file, fields)
    }

    /// The transcript, or a panic with everything known.
    pub fn transcript(&self, file: &[u8], fields: &[(&str, &str)]) -> String {
        let (status, body) = self.post(file, fields);
        assert_eq!(status, 200, "{body}\n{}", self.said());
        body
    }

    pub fn engine_pids(&self) -> Vec<i64> {
        let health = self.json("/health");
        health["engine"]["pids"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_i64)
            .collect()
    }

    pub fn signal(&self, name: &str) {
        kill(i64::from(self.child.id()), name);
    }

    pub fn wait_exit(&mut self, limit: Duration) -> Option<i32> {
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server did not end within {limit:?}\n{}", self.said());
    }
}

pub fn post(port: u16, file: &[u8], fields: &[(&str, &str)]) -> (u16, String) {
    let (content_type, body) = form(file, fields);
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(300)))
        .build()
        .new_agent();
    let mut response = agent
        .post(format!("http://127.0.0.1:{port}{ROUTE}"))
        .header("content-type", content_type)
        .send(&body[..])
        .unwrap_or_else(|e| panic!("POST: {e}"));
    (
        response.status().as_u16(),
        response.body_mut().read_to_string().unwrap(),
    )
}

/// Sends a request and leaves without waiting for the answer; dropping the stream closes the connection.
pub fn post_and_hold(port: u16, file: &[u8], fields: &[(&str, &str)]) -> TcpStream {
    let (content_type, body) = form(file, fields);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(&body).unwrap();
    stream
}

pub fn kill(pid: i64, signal: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "kill -{signal} {pid}");
}

pub fn is_running(pid: i64) -> bool {
    // A zombie has ended: its parent has not looked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
