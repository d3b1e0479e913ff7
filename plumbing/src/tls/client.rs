//! Channels to managers, and a joiner's first contact with a cluster that it only knows a digest of.

use super::{
    Credentials, CredentialsError, MANAGER_NAME,
    credentials::{certificates, root_store},
    provider,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    version::TLS13,
};
use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Whoever joins has nobody else to turn to, and the manager may be busy with those who joined a moment ago.
const JOIN_CONNECT_LIMIT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Where both ends say by themselves that they are there.
const SELDOM: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the user's key is not valid PEM")]
    Key,
    #[error(transparent)]
    Pem(#[from] CredentialsError),
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// A channel to the manager at `addr`, connected when first used and again when it broke. The server must hold a
/// manager's certificate of our cluster. Each connection is by what the credentials are then.
pub fn dial(addr: SocketAddr, credentials: &Credentials) -> Channel {
    let credentials = credentials.clone();
    channel(addr, move || credentials.client_config(), CONNECT_LIMIT)
}

/// The same for a session, in which both ends say by themselves that they are there.
pub fn dial_session(addr: SocketAddr, credentials: &Credentials) -> Channel {
    let credentials = credentials.clone();
    connecting(endpoint(addr, CONNECT_LIMIT).http2_keep_alive_interval(SELDOM), addr, move || {
        credentials.client_config()
    })
}

/// For a joiner: no certificate of its own, and only these roots are trusted.
pub fn dial_pinned(addr: SocketAddr, roots_pem: &str) -> Result<Channel, JoinError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(root_store(&certificates(roots_pem, "the root certificate")?)?)
        .with_no_client_auth();
    Ok(channel(addr, always(config), JOIN_CONNECT_LIMIT))
}

/// For a person: with a certificate that is no node's.
pub fn dial_user(addr: SocketAddr, key_pem: &str, cert_pem: &str, roots_pem: &str) -> Result<Channel, JoinError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| JoinError::Key)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(root_store(&certificates(roots_pem, "the root certificate")?)?)
        .with_client_auth_cert(certificates(cert_pem, "the user's certificate")?, key)?;
    Ok(channel(addr, always(config), CONNECT_LIMIT))
}

/// A channel on which nothing is verified: only for asking for the root certificate, whose digest is then compared.
pub fn fetch_root(addr: SocketAddr) -> Result<Channel, JoinError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified))
        .with_no_client_auth();
    Ok(channel(addr, always(config), JOIN_CONNECT_LIMIT))
}

/// A channel to a daemon on this host.
pub fn dial_unix(path: PathBuf) -> Channel {
    local("http://local".to_owned(), CONNECT_LIMIT).connect_with_connector_lazy(service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    }))
}

fn local(uri: String, limit: Duration) -> Endpoint {
    Endpoint::try_from(uri).expect("scheme and socket address make a URI").connect_timeout(limit)
}

fn endpoint(addr: SocketAddr, limit: Duration) -> Endpoint {
    local(format!("http://{addr}"), limit)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
}

/// The same for every connection.
fn always(mut config: ClientConfig) -> impl Fn() -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    move || config.clone()
}

fn channel(
    addr: SocketAddr,
    config: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static,
    limit: Duration,
) -> Channel {
    connecting(endpoint(addr, limit), addr, config)
}

fn connecting(
    endpoint: Endpoint,
    addr: SocketAddr,
    config: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static,
) -> Channel {
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let connector = TlsConnector::from(config());
        async move {
            let tcp = TcpStream::connect(addr).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(MANAGER_NAME).expect("the name is a DNS label");
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    }))
}

#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
