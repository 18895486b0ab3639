//! The multipart body → a recording in the spool and a [`TranscriptionRequest`]. Parts may come in any order;
//! the file never lies whole in memory.

use std::error::Error as _;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use multer::{Field, Multipart};

use super::drain::{BodyError, BodyLimits, Progress, intake};
use super::error::ApiError;
use super::fast_transcription;
use super::fields::{self, FORM_TEXT_BYTES, Fields};
use crate::admission::{Admitted, Arrival};
use crate::audio::{AudioError, Spool, SpoolFolder, UploadedAudio};
use crate::jobs::{JobRunner, TranscribeOptions};
use crate::render::Presentation;
use crate::schedule::PriorityClass;
use crate::serving::Lease;
use crate::transcript::Task;

/// Parts in one form; SDKs send fewer than thirty.
const MOST_PARTS: usize = 1_000;
/// Bytes collected before they go to the disk in one blocking call.
const DISK_BATCH_BYTES: usize = 1 << 20;

/// A whole request, checked.
#[derive(Debug)]
pub struct TranscriptionRequest {
    /// The recording.
    pub audio: UploadedAudio,
    /// What to ask of the model.
    pub options: TranscribeOptions,
    /// How to show the answer.
    pub presentation: Presentation,
    /// The recording's name has an extension; decides an error's first words.
    pub has_extension: bool,
}

/// Which form is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormKind {
    /// A field for each wish, the recording in `file`.
    Fields(Task),
    /// Azure's fast transcription: one JSON `definition`, the recording in `audio`.
    FastTranscription,
}

impl FormKind {
    fn file_part(self) -> &'static str {
        match self {
            Self::Fields(_) => "file",
            Self::FastTranscription => fast_transcription::FILE_PART,
        }
    }
}

/// What the server decides about forms.
#[derive(Debug)]
pub(super) struct FormRules {
    pub(super) limits: BodyLimits,
    pub(super) spool_memory_bytes: usize,
    pub(super) spool_folder: Arc<SpoolFolder>,
    pub(super) stream_whisper_1: bool,
}

/// The name asked for and the model that serves it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) lease: Lease,
}

/// Reads the form; what it asks for turns the arrival into an admitted request.
///
/// `asked` comes from the path, where the path names a deployment; the form's `model` then decides nothing. Else the
/// model is resolved as soon as its field is known, so that a wrong name is refused before a large file is kept.
pub(super) async fn read(
    rules: &FormRules,
    jobs: &dyn JobRunner,
    headers: &HeaderMap,
    body: Body,
    kind: FormKind,
    arrival: Arrival,
    mut asked: Option<Asked>,
) -> Result<(Arc<Admitted>, TranscriptionRequest), ApiError> {
    let boundary = boundary(headers)?;
    let by_path = asked.is_some();
    let progress = Progress::default();
    let in_the_way = || arrival.is_in_the_way();
    let mut form = Multipart::new(
        intake(body, rules.limits, progress.clone(), &in_the_way),
        boundary,
    );
    let mut fields = Fields::default();
    let mut file: Option<(SpoolWriter, Option<String>)> = None;
    let mut text_bytes = 0;
    let mut parts = 0;

    while let Some(mut part) = form.next_field().await.map_err(broken_form)? {
        progress.made();
        parts += 1;
        if parts > MOST_PARTS {
            return Err(ApiError::Form {
                detail: format!("more than {MOST_PARTS} parts"),
            });
        }
        let name = part.name().unwrap_or_default().to_owned();
        fields::refuse(&name)?;
        if name == kind.file_part() {
            if file.is_some() {
                return Err(ApiError::invalid(
                    kind.file_part(),
                    format!("Invalid value for '{name}': one file a request."),
                ));
            }
            let file_name = part.file_name().map(str::to_owned);
            let mut spool = SpoolWriter::new(rules);
            while let Some(chunk) = part.chunk().await.map_err(broken_form)? {
                progress.made();
                arrival.keep_recording(chunk.len() as u64)?;
                spool.write(chunk).await?;
            }
            file = Some((spool, file_name));
        } else if let Some(known) = fields::known(&name) {
            let value = text(&mut part, known.name, known.bytes, &progress).await?;
            text_bytes += value.len();
            if text_bytes > FORM_TEXT_BYTES {
                return Err(ApiError::Form {
                    detail: format!("text fields hold more than {FORM_TEXT_BYTES} bytes"),
                });
            }
            arrival.keep_text(value.len() as u64)?;
            let model = value.trim();
            if known.name == "model" && !by_path && !model.is_empty() {
                if !arrival.may_use(model) {
                    let name = model.to_owned();
                    return Err(ApiError::UnknownModel { name });
                }
                let lease = jobs.resolve(model).await?;
                let name = model.to_owned();
                asked = Some(Asked { name, lease });
            }
            fields.push(&name, value)?;
        } else {
            while part.chunk().await.map_err(broken_form)?.is_some() {
                progress.made();
            }
        }
    }
    drop(form);

    let Asked { name, lease } =
        asked.ok_or_else(|| missing("model", "you must provide a model parameter"))?;
    let (options, presentation, class) = match kind {
        FormKind::Fields(task) => fields::read(&fields, task, &name, rules.stream_whisper_1)?,
        FormKind::FastTranscription => {
            let definition = fields.single(fast_transcription::DEFINITION_PART);
            let (options, presentation) = fast_transcription::read(definition, file.is_some())?;
            (options, presentation, PriorityClass::Interactive)
        }
    };
    let Some((spool, part_name)) = file else {
        let part = kind.file_part();
        return Err(missing(part, &format!("'{part}' is a required property")));
    };
    let file_name = part_name.or_else(|| fields.single("filename").map(str::to_owned));
    let file_name = file_name
        .as_deref()
        .map(base_name)
        .filter(|name| !name.is_empty())
        .map(str::to_owned);
    let has_extension = file_name.as_deref().is_some_and(|name| {
        name.rsplit_once('.')
            .is_some_and(|(stem, extension)| !stem.is_empty() && !extension.is_empty())
    });
    let audio = spool.finish(file_name).await.map_err(|error| ApiError::Audio {
        error,
        family: presentation.family,
        has_extension,
    })?;
    let request = TranscriptionRequest {
        audio,
        options,
        presentation,
        has_extension,
    };
    Ok((arrival.admit(class, lease), request))
}

fn missing(param: &'static str, message: &str) -> ApiError {
    ApiError::Field {
        param: Some(param),
        code: Some("missing_required_parameter"),
        message: message.to_owned(),
    }
}

/// The last component of a name; Windows clients send whole paths.
fn base_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

fn boundary(headers: &HeaderMap) -> Result<String, ApiError> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    if let Some(encoding) = text(header::CONTENT_ENCODING)
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Err(ApiError::NotMultipart { found: encoding });
    }
    let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
    match multer::parse_boundary(&content_type) {
        Ok(boundary) if !boundary.is_empty() => Ok(boundary),
        Ok(_) | Err(multer::Error::NoBoundary) => Err(ApiError::Form {
            detail: "the Content-Type header names no boundary".to_owned(),
        }),
        Err(_) => Err(ApiError::NotMultipart { found: content_type }),
    }
}

async fn text(
    part: &mut Field<'_>,
    base: &'static str,
    limit: usize,
    progress: &Progress,
) -> Result<String, ApiError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = part.chunk().await.map_err(broken_form)? {
        progress.made();
        if bytes.len() + chunk.len() > limit {
            return Err(ApiError::Field {
                param: Some(base),
                code: Some("string_above_max_length"),
                message: format!("Invalid value for '{base}': it is longer than {limit} bytes."),
            });
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes.into())
        .map_err(|_| ApiError::invalid(base, format!("Invalid value for '{base}': it is not UTF-8 text.")))
}

fn broken_form(error: multer::Error) -> ApiError {
    if let multer::Error::StreamReadFailed(source) = error {
        return match source.downcast::<BodyError>() {
            Ok(error) => match *error {
                BodyError::Slow { bytes, seconds } => ApiError::SlowBody { bytes, seconds },
                BodyError::TooLarge { limit, seen } => ApiError::TooLarge { limit, seen },
                BodyError::Stalled => ApiError::Form {
                    detail: error.to_string(),
                },
                BodyError::Broken(ref source) => ApiError::Form {
                    detail: format!("the body ended early ({source})"),
                },
            },
            Err(other) => ApiError::Form {
                detail: other.to_string(),
            },
        };
    }
    let detail = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    ApiError::Form { detail }
}

/// A recording on its way into the spool: straight into memory while it is small, in large blocking steps on
/// threads made for that once it goes to the disk.
struct SpoolWriter {
    spool: Option<Spool>,
    batch: BytesMut,
}

impl SpoolWriter {
    fn new(rules: &FormRules) -> Self {
        Self {
            spool: Some(Spool::new(
                rules.spool_memory_bytes,
                rules.limits.bytes,
                rules.spool_folder.clone(),
            )),
            batch: BytesMut::new(),
        }
    }

    async fn write(&mut self, chunk: Bytes) -> Result<(), ApiError> {
        let Some(spool) = &mut self.spool else {
            return Err(lost_spool());
        };
        if self.batch.is_empty() && spool.fits_in_memory(chunk.len()) {
            return spool.write(&chunk).map_err(spool_failure);
        }
        self.batch.extend_from_slice(&chunk);
        if self.batch.len() < DISK_BATCH_BYTES {
            return Ok(());
        }
        let batch = self.batch.split().freeze();
        let mut spool = self.spool.take().ok_or_else(lost_spool)?;
        let (spool, outcome) = blocking(move || {
            let outcome = spool.write(&batch);
            (spool, outcome)
        })
        .await?;
        self.spool = Some(spool);
        outcome.map_err(spool_failure)
    }

    async fn finish(mut self, file_name: Option<String>) -> Result<UploadedAudio, AudioError> {
        let lost = || AudioError::Io(std::io::Error::other("the spool was lost"));
        let mut spool = self.spool.take().ok_or_else(lost)?;
        let rest = self.batch.freeze();
        if rest.is_empty() && spool.fits_in_memory(0) {
            return spool.finish(file_name);
        }
        blocking(move || {
            spool.write(&rest)?;
            spool.finish(file_name)
        })
        .await
        .map_err(|_| lost())?
    }
}

fn spool_failure(error: AudioError) -> ApiError {
    ApiError::Audio {
        error,
        family: crate::render::Family::Whisper,
        has_extension: true,
    }
}

fn lost_spool() -> ApiError {
    ApiError::Internal {
        detail: "the spool was lost".to_owned(),
        permanent: false,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::Internal {
            detail: format!("spool: {error}"),
            permanent: false,
        })
}
