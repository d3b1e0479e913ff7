//! Key, certificate and roots of this node. All connections read them through one cell, so that the next handshake is by what is
//! newest, without a restart.

use super::{
    Life, provider,
    verify::{identity_of, life_of, trust_of},
};
use crate::{
    caller::NodeIdentity,
    seal::{Key, Nonce},
};
use heddle_model::node::Trust;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use std::{
    fmt, fs, io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, RwLock},
};

const KEY: &str = "node.key";
const CERTIFICATE: &str = "node.crt";
const ROOTS: &str = "root.crt";
/// A key that is not PEM is sealed, for this place.
const PEM: &[u8] = b"-----BEGIN";

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot read or write credentials in {dir}")]
    Io {
        dir: String,
        #[source]
        source: io::Error,
    },
    #[error("the node's key in {dir} is encrypted, and {why}")]
    Sealed { dir: String, why: &'static str },
    #[error("{what} is not valid PEM")]
    Pem { what: &'static str },
    #[error("the certificate does not name a node, a role and a cluster")]
    Identity,
    #[error("the key or certificate is refused by TLS")]
    Tls(#[from] rustls::Error),
    #[error("the root certificates are refused by TLS")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
}

struct Inner {
    key_pem: String,
    cert_pem: String,
    roots_pem: String,
    identity: NodeIdentity,
    life: Life,
    trust: Trust,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Cheap to clone; clones share the cell.
#[derive(Clone)]
pub struct Credentials(Arc<RwLock<Arc<Inner>>>);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.identity()).finish()
    }
}

/// A new P-256 key and a signing request for it, both PEM. The CA takes nothing but the key from the request.
pub fn new_key_and_csr() -> Result<(String, String), CredentialsError> {
    let key = rcgen::KeyPair::generate()?.serialize_pem();
    let csr = csr(&key)?;
    Ok((key, csr))
}

/// A signing request for a key that there is, both PEM.
pub fn csr(key_pem: &str) -> Result<String, CredentialsError> {
    let key = rcgen::KeyPair::from_pem(key_pem)?;
    Ok(rcgen::CertificateParams::default().serialize_request(&key)?.pem()?)
}

/// All certificates of a text, of which there must be one.
pub(super) fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(CredentialsError::Pem { what })
}

pub(super) fn root_store(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut store = RootCertStore::empty();
    roots.iter().try_for_each(|root| store.add(root.clone()))?;
    Ok(Arc::new(store))
}

fn parse(key_pem: String, cert_pem: String, roots_pem: String) -> Result<Inner, CredentialsError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|_| CredentialsError::Pem { what: "the node's key" })?;
    let chain = certificates(&cert_pem, "the node's certificate")?;
    let roots = certificates(&roots_pem, "the root certificate")?;
    let identity = identity_of(&chain[0]).ok_or(CredentialsError::Identity)?;
    let life = life_of(&chain[0]).ok_or(CredentialsError::Identity)?;
    let trust = trust_of(&chain[0], &roots);
    let roots = root_store(&roots)?;
    let server = Arc::new(server_config(chain.clone(), key.clone_key(), roots.clone())?);
    let client = Arc::new(client_config(chain, key, roots)?);
    Ok(Inner { key_pem, cert_pem, roots_pem, identity, life, trust, server, client })
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Result<ServerConfig, CredentialsError> {
    // Joiners have no certificate yet, so none is demanded here; every RPC states what it needs.
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated().build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the check against a root that has changed meanwhile.
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Result<ClientConfig, CredentialsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

impl Credentials {
    /// From PEM texts.
    pub fn new(key_pem: String, cert_pem: String, roots_pem: String) -> Result<Self, CredentialsError> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(parse(key_pem, cert_pem, roots_pem)?)))))
    }

    /// What every later handshake uses; open connections keep what they have.
    pub fn replace(&self, key_pem: String, cert_pem: String, roots_pem: String) -> Result<(), CredentialsError> {
        let next = Arc::new(parse(key_pem, cert_pem, roots_pem)?);
        *self.0.write().expect("no holder of the lock panics") = next;
        Ok(())
    }

    /// `key`: what the node's key is sealed with, if it is.
    pub fn load(dir: &Path, key: Option<&Key>) -> Result<Self, CredentialsError> {
        let stored = read(dir, KEY)?;
        let sealed = |why| CredentialsError::Sealed { dir: dir.display().to_string(), why };
        let pem = match key {
            _ if stored.starts_with(PEM) => stored,
            None => return Err(sealed("nothing is there to decrypt it with")),
            Some(key) => key.open(KEY.as_bytes(), &stored).map_err(|_| sealed("not with the key that is there"))?,
        };
        Self::new(text(pem, "the node's key")?, certificate(dir)?, text(read(dir, ROOTS)?, "the root certificate")?)
    }

    /// Whose certificate is in the directory; the node's key is not needed for that.
    pub fn stored_identity(dir: &Path) -> Result<NodeIdentity, CredentialsError> {
        let cert = CertificateDer::from_pem_slice(certificate(dir)?.as_bytes());
        cert.ok().and_then(|cert| identity_of(&cert)).ok_or(CredentialsError::Identity)
    }

    /// Writes three files that only root may read, each whole or not at all.
    pub fn save(&self, dir: &Path) -> Result<(), CredentialsError> {
        let inner = self.inner();
        self.write(dir, inner.key_pem.as_bytes())
    }

    /// The same with the node's key sealed.
    pub fn save_sealed(&self, dir: &Path, key: &Key, nonce: Nonce) -> Result<(), CredentialsError> {
        self.write(dir, &key.seal(nonce, KEY.as_bytes(), self.inner().key_pem.as_bytes()))
    }

    fn write(&self, dir: &Path, key: &[u8]) -> Result<(), CredentialsError> {
        let inner = self.inner();
        let write = || -> io::Result<()> {
            fs::create_dir_all(dir)?;
            let files = [(KEY, key), (CERTIFICATE, inner.cert_pem.as_bytes()), (ROOTS, inner.roots_pem.as_bytes())];
            for (name, bytes) in files {
                write_private(&dir.join(name), bytes)?;
            }
            fs::File::open(dir)?.sync_all()
        };
        write().map_err(|source| CredentialsError::Io { dir: dir.display().to_string(), source })
    }

    pub fn identity(&self) -> NodeIdentity {
        self.inner().identity.clone()
    }

    /// Of the certificate.
    pub fn life(&self) -> Life {
        self.inner().life
    }

    pub fn cert_pem(&self) -> String {
        self.inner().cert_pem.clone()
    }

    /// As secret as the file it is kept in.
    pub fn key_pem(&self) -> String {
        self.inner().key_pem.clone()
    }

    pub fn roots_pem(&self) -> String {
        self.inner().roots_pem.clone()
    }

    /// What the certificate goes back to, and what is believed.
    pub fn trust(&self) -> Trust {
        self.inner().trust.clone()
    }

    fn inner(&self) -> Arc<Inner> {
        self.0.read().expect("no holder of the lock panics").clone()
    }

    /// For a connection that begins now.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.inner().server.clone()
    }

    /// For a connection that begins now.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        self.inner().client.clone()
    }
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, CredentialsError> {
    fs::read(dir.join(name)).map_err(|source| CredentialsError::Io { dir: dir.display().to_string(), source })
}

fn text(bytes: Vec<u8>, what: &'static str) -> Result<String, CredentialsError> {
    String::from_utf8(bytes).map_err(|_| CredentialsError::Pem { what })
}

fn certificate(dir: &Path) -> Result<String, CredentialsError> {
    text(read(dir, CERTIFICATE)?, "the node's certificate")
}

/// A file that only root may read, whole or not at all. The directory is not synced.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::MANAGER_NAME;

    /// Of a node that certified itself, which is enough to be stored.
    fn credentials() -> Credentials {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let id = "0000000000000000000000001";
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, id);
        params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, MANAGER_NAME);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, id);
        let cert = params.self_signed(&key).unwrap().pem();
        Credentials::new(key.serialize_pem(), cert.clone(), cert).unwrap()
    }

    #[test]
    fn a_sealed_key_is_nowhere_in_clear_and_opens_with_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, own) = (dir.path(), credentials());
        let stored = || fs::read(dir.join(KEY)).unwrap();
        own.save(dir).unwrap();
        assert!(stored().starts_with(PEM));
        let (key, other) = (Key::new([1; 32]), Key::new([2; 32]));
        // In clear, a key is not needed.
        assert_eq!(Credentials::load(dir, Some(&key)).unwrap().key_pem(), own.key_pem());
        own.save_sealed(dir, &key, [9; 24]).unwrap();
        let middle = &own.key_pem().into_bytes()[40..60];
        assert!(!stored().windows(middle.len()).any(|w| w == middle));
        assert_eq!(Credentials::stored_identity(dir).unwrap(), own.identity());
        assert_eq!(Credentials::load(dir, Some(&key)).unwrap().key_pem(), own.key_pem());
        for (key, said) in
            [(None, "nothing is there to decrypt it with"), (Some(&other), "not with the key that is there")]
        {
            let error = Credentials::load(dir, key).unwrap_err().to_string();
            assert!(error.ends_with(said), "{error}");
        }
        own.save(dir).unwrap();
        assert_eq!(Credentials::load(dir, None).unwrap().key_pem(), own.key_pem());
    }
}
