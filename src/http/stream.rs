//! `stream=true`: server-sent events while later windows still run.
//!
//! Frames are data only, without `event:` lines, and end with `data: [DONE]`. A failure after the first byte is a
//! frame with an `error` object and no `[DONE]`: what makes the Python and npm clients raise.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::time::timeout;

use super::dialect::Dialect;
use super::error::{ApiError, ErrorBody};
use crate::jobs::{JobError, JobEvent, JobHandle};
use crate::render::{self, CueBuilder, Presentation, ResponseFormat, StreamEvent};
use crate::transcript::{Segment, Transcript};

/// Silence after which a comment goes out, so that no proxy takes the connection for dead. Also how long a
/// failure may take to become an ordinary HTTP error.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Everything a stream needs beside the job.
#[derive(Debug)]
pub(super) struct StreamTerms {
    pub(super) shown: Presentation,
    pub(super) dialect: Dialect,
    pub(super) has_extension: bool,
    pub(super) keep_alive: Duration,
}

/// Waits for the job's first word, so that an early failure keeps its status, and streams from there.
pub(super) async fn response(mut job: JobHandle, terms: StreamTerms) -> Result<Response, ApiError> {
    let first = timeout(terms.keep_alive, job.events.recv()).await;
    let mut live = Live {
        job,
        text: Deltas::new(&terms.shown),
        terms,
        segments: 0,
        queue: VecDeque::new(),
        ended: false,
        span: tracing::Span::current(),
    };
    match first {
        Err(_) => live.queue.push_back(Bytes::from_static(b": waiting\n\n")),
        Ok(Some(Ok(event))) => live.take(event),
        Ok(Some(Err(error))) => return Err(live.failure(error)),
        Ok(None) => return Err(no_result()),
    }
    let frames = stream::unfold(live, |mut live| async move {
        let frame = live.next().await?;
        Some((Ok::<_, Infallible>(frame), live))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(frames)).into_response())
}

/// A job that ended without saying how.
pub(super) fn no_result() -> ApiError {
    ApiError::Internal {
        detail: "the job ended without a result".to_owned(),
        permanent: false,
    }
}

/// A stream in progress. Dropped when the client leaves, which cancels the job.
struct Live {
    job: JobHandle,
    text: Deltas,
    terms: StreamTerms,
    segments: usize,
    queue: VecDeque<Bytes>,
    ended: bool,
    span: tracing::Span,
}

impl Live {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.queue.pop_front() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            match timeout(self.terms.keep_alive, self.job.events.recv()).await {
                Err(_) => return Some(Bytes::from_static(b": waiting\n\n")),
                Ok(Some(Ok(event))) => self.take(event),
                Ok(Some(Err(error))) => {
                    let error = self.failure(error);
                    self.fail(&error);
                }
                Ok(None) => self.fail(&no_result()),
            }
        }
    }

    fn failure(&self, error: JobError) -> ApiError {
        ApiError::from_job(error, self.terms.shown.family, self.terms.has_extension)
    }

    fn take(&mut self, event: JobEvent) {
        match event {
            JobEvent::Segments(segments) => self.segments(&segments),
            JobEvent::Finished(transcript) => self.finish(&transcript),
        }
    }

    /// The segments of one window.
    fn segments(&mut self, segments: &[Segment]) {
        if let Some(delta) = self.text.add_laid_out(segments) {
            self.segments += segments.len();
            if !delta.is_empty() {
                self.send(&StreamEvent::Delta {
                    delta,
                    logprobs: None,
                    segment: None,
                });
            }
            return;
        }
        for segment in segments {
            self.segment(segment);
        }
    }

    fn segment(&mut self, segment: &Segment) {
        self.segments += 1;
        let delta = self.text.add(segment);
        let logprobs = self.terms.shown.logprobs.then(|| render::logprobs([segment]));
        let verbose =
            self.terms.shown.format == ResponseFormat::VerboseJson && !segment.text.trim().is_empty();
        let shown = verbose.then(|| Box::new(render::stream_segment(segment, &self.terms.shown)));
        if !delta.is_empty() || shown.is_some() || logprobs.as_ref().is_some_and(|list| !list.is_empty()) {
            self.send(&StreamEvent::Delta {
                delta,
                logprobs,
                segment: shown,
            });
        }
    }

    fn finish(&mut self, transcript: &Transcript) {
        let late = transcript.segments.get(self.segments..).unwrap_or_default();
        self.segments(late);
        let rest = self.text.close(transcript);
        if !rest.is_empty() {
            self.send(&StreamEvent::Delta {
                delta: rest,
                logprobs: None,
                segment: None,
            });
        }
        let shown = &self.terms.shown;
        let done = StreamEvent::Done {
            text: std::mem::take(&mut self.text.sent),
            logprobs: shown.logprobs.then(|| render::logprobs(&transcript.segments)),
            languages: render::heard(transcript, shown),
            usage: render::usage(transcript, shown),
            verbose: (shown.format == ResponseFormat::VerboseJson)
                .then(|| Box::new(render::verbose(transcript, shown))),
        };
        self.send(&done);
        self.span.in_scope(|| tracing::info!("stream finished"));
        self.queue.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.ended = true;
    }

    fn fail(&mut self, error: &ApiError) {
        if let Some(detail) = error.detail() {
            self.span.in_scope(|| tracing::error!(%detail, "a stream failed"));
        }
        let error = error.wire(self.terms.dialect).error;
        self.send(&ErrorBody { error });
        self.ended = true;
    }

    fn send(&mut self, event: &impl Serialize) {
        let mut frame = b"data: ".to_vec();
        if serde_json::to_writer(&mut frame, event).is_ok() {
            frame.extend_from_slice(b"\n\n");
            self.queue.push_back(frame.into());
        }
    }
}

/// Cuts the final text into deltas whose sum is that text to the byte, without knowing its end: spaces at the
/// end of what is known are held back until more text follows them.
///
/// For srt and vtt the text is the file itself: a delta is a cue.
struct Deltas {
    format: ResponseFormat,
    /// Lays cues out, when that was asked for.
    builder: Option<CueBuilder>,
    cues: usize,
    held: String,
    sent: String,
}

impl Deltas {
    fn new(shown: &Presentation) -> Self {
        let format = shown.format;
        let subtitles = matches!(format, ResponseFormat::Srt | ResponseFormat::Vtt);
        let held = if format == ResponseFormat::Vtt {
            render::vtt_start().to_owned()
        } else {
            String::new()
        };
        Self {
            format,
            builder: shown
                .subtitles
                .filter(|_| subtitles)
                .map(|rules| CueBuilder::new(rules, shown.task, shown.language.as_deref())),
            cues: 0,
            held,
            sent: String::new(),
        }
    }

    /// Cues of a window with their lines laid out; `None` when nobody asked for that.
    fn add_laid_out(&mut self, segments: &[Segment]) -> Option<String> {
        let cues = self.builder.as_mut()?.push(segments);
        Some(self.write(&cues))
    }

    fn write(&mut self, cues: &[render::Cue]) -> String {
        if cues.is_empty() {
            return String::new();
        }
        let mut text = std::mem::take(&mut self.held);
        for cue in cues {
            self.cues += 1;
            if self.format == ResponseFormat::Srt {
                render::srt_laid_out(&mut text, self.cues, cue);
            } else {
                render::vtt_laid_out(&mut text, cue);
            }
        }
        self.sent.push_str(&text);
        text
    }

    fn add(&mut self, segment: &Segment) -> String {
        match self.format {
            ResponseFormat::Srt | ResponseFormat::Vtt if segment.text.trim().is_empty() => String::new(),
            ResponseFormat::Srt => {
                self.cues += 1;
                let mut cue = std::mem::take(&mut self.held);
                render::srt_cue(&mut cue, self.cues, segment);
                self.sent.push_str(&cue);
                cue
            }
            ResponseFormat::Vtt => {
                let mut cue = std::mem::take(&mut self.held);
                render::vtt_cue(&mut cue, segment);
                self.sent.push_str(&cue);
                cue
            }
            ResponseFormat::Json
            | ResponseFormat::Text
            | ResponseFormat::VerboseJson
            | ResponseFormat::FastTranscription => self.add_text(&segment.text),
        }
    }

    fn add_text(&mut self, text: &str) -> String {
        let mut piece = std::mem::take(&mut self.held);
        piece.push_str(text);
        if self.sent.is_empty() {
            piece = piece.trim_start().to_owned();
        }
        self.held = piece.split_off(piece.trim_end().len());
        self.sent.push_str(&piece);
        piece
    }

    /// What is still to send. Normally nothing but a subtitle file's end.
    fn close(&mut self, transcript: &Transcript) -> String {
        let last = self.builder.as_mut().map(CueBuilder::finish).unwrap_or_default();
        let mut last = self.write(&last);
        let rest = match self.format {
            ResponseFormat::Srt => render::srt_end().to_owned(),
            ResponseFormat::Vtt => std::mem::take(&mut self.held),
            ResponseFormat::Json
            | ResponseFormat::Text
            | ResponseFormat::VerboseJson
            | ResponseFormat::FastTranscription => {
                // Never contradict what the client has shown: text that does not follow on is not sent.
                transcript
                    .text()
                    .strip_prefix(self.sent.as_str())
                    .unwrap_or_default()
                    .to_owned()
            }
        };
        self.sent.push_str(&rest);
        last.push_str(&rest);
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_sum_to_the_trimmed_text() {
        let shown = Presentation {
            format: ResponseFormat::Json,
            stream: true,
            segments: false,
            words: false,
            logprobs: false,
            family: render::Family::Whisper,
            task: crate::transcript::Task::Transcribe,
            language: None,
            prompt_bytes: 0,
            subtitles: None,
            fast: render::FastTranscription::default(),
        };
        for pieces in [
            vec![" Hello", " world. ", " ", "", " Bye. "],
            vec!["  ", "\n", " あ", "い  ", " う🎉"],
            vec!["one"],
            vec![" ", " "],
            vec![],
        ] {
            let mut deltas = Deltas::new(&shown);
            let sum: String = pieces.iter().map(|piece| deltas.add_text(piece)).collect();
            assert_eq!(sum, pieces.concat().trim(), "{pieces:?}");
            assert_eq!(sum, deltas.sent);
        }
    }
}
