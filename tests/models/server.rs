//! A model hub with bad habits.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the hub does with one request.
#[derive(Clone)]
pub enum Reply {
    /// The file, or the range that was asked for.
    Honest,
    /// As honest, but the connection ends when this many bytes of the body are out.
    CutAfter(usize),
    /// The whole file, whatever was asked for.
    IgnoreRange,
    /// Other contents of the same size.
    Wrong(Vec<u8>),
    /// A status and a few bytes.
    Status(u16),
}

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub if_range: Option<String>,
}

pub struct Hub {
    pub url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

pub const ETAG: &str = "\"v1\"";

impl Hub {
    /// Serves `contents` under every path; the nth request gets the nth of `replies`, later ones the last.
    pub fn start(contents: Vec<u8>, replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { break };
                let (contents, replies, seen) = (contents.clone(), replies.clone(), Arc::clone(&seen));
                thread::spawn(move || serve(stream, &contents, &replies, &seen));
            }
        });
        Self { url, log }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

/// An address where nobody listens.
pub fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn serve(mut stream: TcpStream, contents: &[u8], replies: &[Reply], seen: &Mutex<Vec<Request>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let mut request = Request {
        path: first.split(' ').nth(1).unwrap_or("").to_owned(),
        range: None,
        if_range: None,
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(": ") {
            match name.to_lowercase().as_str() {
                "range" => request.range = Some(value.to_owned()),
                "if-range" => request.if_range = Some(value.to_owned()),
                _ => {}
            }
        }
    }
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    let reply = replies
        .get(number)
        .or(replies.last())
        .cloned()
        .unwrap_or(Reply::Honest);
    let (contents, limit, ranged) = match &reply {
        Reply::Honest => (contents, usize::MAX, true),
        Reply::CutAfter(limit) => (contents, *limit, true),
        Reply::IgnoreRange => (contents, usize::MAX, false),
        Reply::Wrong(other) => (other.as_slice(), usize::MAX, true),
        Reply::Status(code) => {
            let _ = write!(
                stream,
                "HTTP/1.1 {code} X\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope"
            );
            return;
        }
    };
    let start = request
        .range
        .as_deref()
        .filter(|_| ranged && request.if_range.as_deref().is_none_or(|tag| tag == ETAG));
    let start: usize = start.map_or(0, |range| {
        range["bytes=".len()..].trim_end_matches('-').parse().unwrap()
    });
    let body = &contents[start..];
    let status = if start == 0 {
        "200 OK"
    } else {
        "206 Partial Content"
    };
    let mut head = format!(
        "HTTP/1.1 {status}\r\nETag: {ETAG}\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    if start > 0 {
        let _ = std::fmt::Write::write_fmt(
            &mut head,
            format_args!(
                "Content-Range: bytes {start}-{}/{}\r\n",
                contents.len() - 1,
                contents.len()
            ),
        );
    }
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(b"\r\n"));
    let _ = stream
        .write_all(&body[..body.len().min(limit)])
        .and_then(|()| stream.flush());
}
