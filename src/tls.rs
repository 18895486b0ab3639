//! TLS: certificates from files, read again when they change, or one made by the server itself.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::{ServerConfig as Settings, TlsSetting};

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files are looked at.
const RELOAD_PERIOD: Duration = Duration::from_secs(5);
/// A certificate of our own lives so long (Apple's clients refuse more than 825 days) …
const LIFETIME_DAYS: u64 = 820;
/// … and is made anew at a start after so many days.
const RENEWAL_DAYS: u64 = 730;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Folder of our own certificate, beside the settings.
const FOLDER: &str = "tls";

/// Why HTTPS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is named and cannot be used.
    #[error("`{}` (server.{key}): {reason}", .path.display())]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not known.
    #[error("the certificate and its key cannot be used: {0}")]
    Pair(String),
    /// Our own could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

/// The certificate in use.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
    fingerprint: RwLock<String>,
    /// Plain HTTP is answered on the same port.
    allow_http: bool,
    own: bool,
    /// Longest handshake.
    patience: Duration,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// What the settings ask for; relative paths count from `folder`.
    ///
    /// # Errors
    ///
    /// Names the file or the setting at fault.
    pub fn open(settings: &Settings, folder: &Path) -> Result<Option<Arc<Self>>, TlsError> {
        let (certificate, key, own) = match settings.tls {
            TlsSetting::Off => return Ok(None),
            TlsSetting::Files => (
                folder.join(&settings.tls_certificate),
                folder.join(&settings.tls_key),
                false,
            ),
            TlsSetting::SelfSigned => {
                let folder = folder.join(FOLDER);
                let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
                if is_due(&certificate) || !key.is_file() {
                    make(&settings.host, &folder, &certificate, &key)?;
                }
                (certificate, key, true)
            }
        };
        let (config, fingerprint) = load(&certificate, &key)?;
        Ok(Some(Arc::new(Self {
            certificate,
            key,
            current: RwLock::new(config),
            fingerprint: RwLock::new(fingerprint),
            allow_http: settings.tls_allow_http,
            own,
            patience: HANDSHAKE_TIMEOUT,
        })))
    }

    /// Longest wait for a client's first byte and for its handshake.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Plain HTTP is answered on the same port.
    pub fn allows_http(&self) -> bool {
        self.allow_http
    }

    /// The certificate's file: what clients are told to trust.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// The server made the certificate: nobody trusts it by itself.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// SHA-256 of the certificate, in pairs of hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        self.fingerprint
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Shakes hands.
    ///
    /// # Errors
    ///
    /// Of the client's, or that it took too long.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        tokio::time::timeout(self.patience, TlsAcceptor::from(config).accept(stream)).await?
    }

    /// Takes changed files into use until `stop` fires; connections that are open keep what they have.
    pub async fn follow(&self, stop: CancellationToken) {
        let mut seen = self.state();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RELOAD_PERIOD) => {}
            }
            let now = self.state();
            if now == seen {
                continue;
            }
            seen = now;
            // Often the other of the two files is still being written.
            if let Err(error) = self.reload() {
                tracing::warn!(%error, "the certificate changed and cannot be used; the old one stays");
            }
        }
    }

    /// Reads the files again. Connections that are open keep what they have.
    ///
    /// # Errors
    ///
    /// When the files cannot be used; the old certificate then stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let (config, fingerprint) = load(&self.certificate, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        *self.fingerprint.write().unwrap_or_else(PoisonError::into_inner) = fingerprint;
        tracing::info!(certificate = %self.certificate.display(), "the certificate was read again");
        Ok(())
    }

    fn state(&self) -> [Option<(SystemTime, u64)>; 2] {
        [&self.certificate, &self.key].map(|path| {
            let facts = std::fs::metadata(path).ok()?;
            Some((facts.modified().ok()?, facts.len()))
        })
    }
}

fn load(certificate: &Path, key: &Path) -> Result<(Arc<ServerConfig>, String), TlsError> {
    let wrong = |key, path: &Path, reason: String| TlsError::File {
        key,
        path: path.to_owned(),
        reason,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| wrong("tls_certificate", certificate, error.to_string()))?;
    let Some(first) = chain.first() else {
        let reason = "it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned();
        return Err(wrong("tls_certificate", certificate, reason));
    };
    let digest = Sha256::digest(first);
    let mut fingerprint = String::with_capacity(95);
    for (at, byte) in digest.iter().enumerate() {
        let _ = write!(fingerprint, "{}{byte:02X}", if at == 0 { "" } else { ":" });
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("tls_key", key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Pair(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| TlsError::Pair(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), fingerprint))
}

/// True where there is none, or an old one.
fn is_due(certificate: &Path) -> bool {
    let made = std::fs::metadata(certificate).and_then(|facts| facts.modified());
    made.map_or(true, |made| {
        made.elapsed().is_ok_and(|age| age > DAY * RENEWAL_DAYS as u32)
    })
}

fn make(host: &str, folder: &Path, certificate: &Path, key: &Path) -> Result<(), TlsError> {
    let failed = |error: &dyn std::fmt::Display| TlsError::Make(error.to_string());
    let mut params = CertificateParams::new(names(host)).map_err(|error| failed(&error))?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "WhisperBackendAPI");
    let now = SystemTime::now();
    params.not_before = OffsetDateTime::from(now - DAY);
    params.not_after = OffsetDateTime::from(now + DAY * LIFETIME_DAYS as u32);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let pair = KeyPair::generate().map_err(|error| failed(&error))?;
    let made = params.self_signed(&pair).map_err(|error| failed(&error))?;
    std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    write_private(key, &pair.serialize_pem()).map_err(|error| failed(&error))?;
    std::fs::write(certificate, made.pem()).map_err(|error| failed(&error))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let _ = std::fs::remove_file(path);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    io::Write::write_all(&mut options.open(path)?, text.as_bytes())
}

/// Under what clients may know this machine: itself, its name, its address in the local network.
fn names(host: &str) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let unspecified = host
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_unspecified());
    if !unspecified && !host.is_empty() {
        names.push(host.to_owned());
    }
    if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        let name = name.trim();
        names.push(name.to_owned());
        if !name.contains('.') {
            names.push(format!("{name}.local"));
        }
    }
    names.extend(network_address().map(|address| address.to_string()));
    names.retain(|name| !name.is_empty() && name.is_ascii());
    names.sort();
    names.dedup();
    names
}

/// The address this machine would be reached at. A UDP socket that is connected sends nothing.
fn network_address() -> Option<IpAddr> {
    let anywhere = SocketAddr::from(([192, 0, 2, 1], 9)); // TEST-NET-1, RFC 5737
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(anywhere).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

/// A client's side, for this program's own commands: trusts the certificate that the settings name, and no other.
///
/// # Errors
///
/// The file's, or the handshake's.
pub async fn trusting<S>(
    settings: &Settings,
    folder: &Path,
    host: &str,
    stream: S,
) -> io::Result<tokio_rustls::client::TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let certificate = match settings.tls {
        TlsSetting::SelfSigned => folder.join(FOLDER).join("certificate.pem"),
        TlsSetting::Off | TlsSetting::Files => folder.join(&settings.tls_certificate),
    };
    let mut roots = rustls::RootCertStore::empty();
    for found in CertificateDer::pem_file_iter(&certificate).map_err(io::Error::other)? {
        roots
            .add(found.map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}
