//! A server of this build, started as people start it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{BINARY, Environment, PATIENCE, model};

pub struct Server {
    child: Child,
    pub address: String,
    folder: tempfile::TempDir,
    banner: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server and waits until it can serve.
    pub fn start(environment: &Environment, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = format!(
            "[server]\nport = 0\nlocale = \"en\"\n[whisper]\nmodel_path = {:?}\nauto_download = false\n\
             [performance]\nslots = 1\nwatchdog_min_seconds = 600.0\n",
            model().display().to_string()
        );
        std::fs::write(folder.path().join("config.toml"), settings).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child = Command::new(BINARY)
            .args(["serve", "--config"])
            .arg(folder.path().join("config.toml"))
            .args(flags)
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut address = String::new();
        let banner = Arc::new(Mutex::new(String::new()));
        let mut line = String::new();
        while address.is_empty() && out.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once("http://") {
                address = format!("http://{}", rest.trim());
            }
            banner.lock().unwrap().push_str(&line);
            line.clear();
        }
        let shown = banner.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let mut shown = shown.lock().unwrap();
                shown.push_str(&line);
                shown.push('\n');
            }
        });
        let server = Self {
            child,
            address,
            folder,
            banner,
        };
        let start = Instant::now();
        while server.get("/health").0 != 200 {
            assert!(
                start.elapsed() < PATIENCE,
                "not ready: {}\n{}",
                server.get("/health").1,
                server.log()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        server
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Standard output so far, which is the banner, once it holds `words`.
    pub fn banner_with(&self, words: &str) -> String {
        let start = Instant::now();
        loop {
            let shown = self.banner.lock().unwrap().clone();
            if shown.contains(words) {
                return shown;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "`{words}` is not in the banner: {shown}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn get(&self, route: &str) -> (u16, Value) {
        get(&self.address, route)
    }

    /// Text of a transcription; fails unless it is answered with 200.
    pub fn transcribe(&self, audio: &[u8]) -> String {
        let (status, body) = post(&self.address, audio);
        assert_eq!(status, 200, "{body}\n{}", self.log());
        body["text"].as_str().unwrap().to_owned()
    }

    pub fn engine_pids(&self) -> Vec<u64> {
        let (_, health) = self.get("/health");
        health["engine"]["pids"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_u64)
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

fn get(address: &str, route: &str) -> (u16, Value) {
    let mut response = agent().get(format!("{address}{route}")).call().unwrap();
    (
        response.status().as_u16(),
        response.body_mut().read_json().unwrap(),
    )
}

pub fn post(address: &str, audio: &[u8]) -> (u16, Value) {
    let boundary = "gpu-test-boundary";
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"jfk.wav\"\r\n\
         Content-Type: audio/wav\r\n\r\n"
    );
    let body = [
        head.as_bytes(),
        audio,
        format!("\r\n--{boundary}--\r\n").as_bytes(),
    ]
    .concat();
    let route = "/openai/deployments/whisper/audio/transcriptions?api-version=2024-02-01";
    let mut response = agent()
        .post(format!("{address}{route}"))
        .header(
            "content-type",
            format!("multipart/form-data; boundary={boundary}"),
        )
        .send(&body)
        .unwrap();
    (
        response.status().as_u16(),
        response.body_mut().read_json().unwrap_or_default(),
    )
}

pub fn kill(pid: u64) {
    let status = Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}
