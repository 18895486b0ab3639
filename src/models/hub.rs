//! Downloads from the model hub that survive cut connections: into `FILE.part`, resumed with `Range`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{Response, StatusCode, header};

use super::progress::Watch;
use super::{ModelError, staging};

/// A hub that does not answer gives way to the next source soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Silence in the middle of the body after which the connection is taken for dead.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Failures in a row before a source is given up; one that brought this much does not count.
const MAX_FAILURES: u32 = 4;
const PROGRESS_BYTES: u64 = 1 << 20;
const BUFFER_BYTES: usize = 1 << 18;

/// Why the hub did not give the file.
#[derive(Debug)]
pub(crate) enum HubError {
    /// Nobody answers there: no use in asking for another file either.
    Unreachable(String),
    /// It answers, but not with the file.
    Refused(String),
    /// On our side: disk, cancellation.
    Local(ModelError),
}

impl From<ModelError> for HubError {
    fn from(error: ModelError) -> Self {
        Self::Local(error)
    }
}

/// How one connection ended short of the file.
enum Ended {
    /// Worth another connection.
    Again(String),
    Final(HubError),
}

impl From<ModelError> for Ended {
    fn from(error: ModelError) -> Self {
        Self::Final(HubError::Local(error))
    }
}

/// One file to download.
pub(crate) struct Download<'a> {
    pub(crate) url: &'a str,
    /// Where the bytes go; what is there is kept and continued.
    pub(crate) part: &'a Path,
    /// Size of the whole file.
    pub(crate) bytes: u64,
    /// Wait before the second connection; doubles.
    pub(crate) retry_pause: Duration,
}

/// A client with this module's patience. Proxies come from the environment (`HTTPS_PROXY`, `NO_PROXY`).
pub(crate) fn agent() -> Agent {
    Agent::config_builder()
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_per_read(Some(SILENCE_TIMEOUT))
        .http_status_as_error(false)
        .user_agent(concat!("whisper-backend-api/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

impl Download<'_> {
    /// Brings the file to its full size. Its contents are for the caller to verify.
    pub(crate) fn run(&self, agent: &Agent, watch: Watch<'_>) -> Result<(), HubError> {
        let mut have = self.have();
        if have > self.bytes {
            discard(self.part);
            have = 0;
        }
        watch
            .progress
            .begin(&format!("downloading {}", self.url), Some(self.bytes));
        watch.progress.advance(have);
        if have > 0 {
            watch
                .progress
                .note(&format!("resuming at {have} of {} bytes", self.bytes));
        }
        let mut failures = 0;
        while have < self.bytes {
            watch.check()?;
            let before = have;
            let reason = match self.connection(agent, before, watch) {
                Ok(()) => return Ok(()),
                Err(Ended::Final(error)) => return Err(error),
                Err(Ended::Again(reason)) => reason,
            };
            have = self.have();
            failures = if have >= before + PROGRESS_BYTES {
                1
            } else {
                failures + 1
            };
            if failures >= MAX_FAILURES {
                return Err(HubError::Refused(format!(
                    "{reason}; {have} of {} bytes are kept for the next try",
                    self.bytes
                )));
            }
            watch.progress.note(&format!("{reason}; trying again"));
            self.pause(failures, watch)?;
        }
        Ok(())
    }

    fn have(&self) -> u64 {
        fs::metadata(self.part).map_or(0, |metadata| metadata.len())
    }

    fn pause(&self, failures: u32, watch: Watch<'_>) -> Result<(), ModelError> {
        let mut left = self.retry_pause * 2_u32.pow(failures.saturating_sub(1));
        while !left.is_zero() {
            watch.check()?;
            let step = left.min(Duration::from_millis(100));
            thread::sleep(step);
            left -= step;
        }
        Ok(())
    }

    /// One request and as much of its body as comes.
    fn connection(&self, agent: &Agent, have: u64, watch: Watch<'_>) -> Result<(), Ended> {
        // `identity`: a compressed body has other offsets.
        let mut request = agent.get(self.url).header(header::ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
            // Without a strong validator the range is asked for anyway: the checksum decides in the end.
            if let Ok(etag) = fs::read_to_string(etag_path(self.part)) {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let response = request.call().map_err(classify)?;
        let start = self.place(&response, have)?;
        self.receive(response, start, watch)
    }

    /// Where the body's first byte belongs, from the answer's status.
    fn place<B>(&self, response: &Response<B>, have: u64) -> Result<u64, Ended> {
        let refused = |reason| Err(Ended::Final(HubError::Refused(reason)));
        match response.status() {
            StatusCode::OK => {
                let length = number(response, header::CONTENT_LENGTH);
                if length.is_some_and(|length| length != self.bytes) {
                    return refused(format!(
                        "it offers a file of {} bytes, the published one has {}",
                        length.unwrap_or_default(),
                        self.bytes
                    ));
                }
                Ok(0)
            }
            StatusCode::PARTIAL_CONTENT => match content_range(response) {
                Some((start, total)) if start <= have && total.is_none_or(|total| total == self.bytes) => {
                    Ok(start)
                }
                _ => {
                    discard(self.part);
                    Err(Ended::Again(
                        "it sent another range than was asked for".to_owned(),
                    ))
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE => {
                discard(self.part);
                Err(Ended::Again("it refused to continue the file".to_owned()))
            }
            status if status.is_server_error() => Err(Ended::Again(format!("it answered {status}"))),
            status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) => {
                Err(Ended::Again(format!("it answered {status}")))
            }
            status => refused(format!("it answered {status}")),
        }
    }

    fn receive(&self, response: Response<ureq::Body>, start: u64, watch: Watch<'_>) -> Result<(), Ended> {
        let failed = |e| ModelError::io("write", self.part, e);
        keep_etag(self.part, response.headers().get(header::ETAG));
        let mut file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(self.part)
            .map_err(failed)?;
        file.set_len(start)
            .or_else(|error| if start == 0 { Ok(()) } else { Err(error) })
            .map_err(failed)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start)).map_err(failed)?;
        let mut have = start;
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            watch.check()?;
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    // What came is kept: flushed here, continued by the next connection.
                    let _ = file.sync_data();
                    return Err(Ended::Again(format!("the connection was cut ({error})")));
                }
            };
            have += count as u64;
            if have > self.bytes {
                drop(file);
                discard(self.part);
                return Err(Ended::Final(HubError::Refused(format!(
                    "it sends more than the {} bytes published",
                    self.bytes
                ))));
            }
            if let Err(error) = file.write_all(&buffer[..count]) {
                let error = failed(error);
                if matches!(error, ModelError::DiskFull { .. }) {
                    // A part that fills the disk would keep it full.
                    discard(self.part);
                }
                return Err(error.into());
            }
            watch.progress.advance(count as u64);
        }
        if have < self.bytes {
            return Err(Ended::Again(format!(
                "the connection was cut at {have} of {} bytes",
                self.bytes
            )));
        }
        Ok(())
    }
}

/// Removes a part and what is known of it.
pub(crate) fn discard(part: &Path) {
    let _ = fs::remove_file(part);
    let _ = fs::remove_file(etag_path(part));
}

pub(crate) fn etag_path(part: &Path) -> PathBuf {
    staging::hidden(part, "etag")
}

/// Only strong validators may stand in `If-Range` (RFC 9110, section 13.1.5).
fn keep_etag(part: &Path, etag: Option<&header::HeaderValue>) {
    let path = etag_path(part);
    match etag
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.starts_with('"'))
    {
        Some(value) => drop(fs::write(path, value)),
        None => drop(fs::remove_file(path)),
    }
}

fn number<B>(response: &Response<B>, name: header::HeaderName) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.trim().parse().ok()
}

/// `bytes START-END/TOTAL` → (start, total).
fn content_range<B>(response: &Response<B>) -> Option<(u64, Option<u64>)> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _end) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

fn classify(error: ureq::Error) -> Ended {
    use std::io::ErrorKind;
    let unreachable = |reason: String| Ended::Final(HubError::Unreachable(reason));
    match error {
        ureq::Error::HostNotFound => unreachable("its name cannot be resolved (no network?)".to_owned()),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))
        }
        ureq::Error::Io(ref io)
            if matches!(io.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) =>
        {
            Ended::Again(format!("the connection was cut ({io})"))
        }
        ureq::Error::Timeout(_) => Ended::Again("it fell silent".to_owned()),
        ureq::Error::Protocol(error) => Ended::Again(format!("the answer was broken ({error})")),
        ureq::Error::Io(io) => unreachable(format!("cannot connect ({io})")),
        other => unreachable(other.to_string()),
    }
}
