//! The cluster's certificate authority: root, node certificates, join tokens.

use heddle_model::{
    ClusterId, NodeId, Timestamp,
    cluster::{Cluster, JoinTokens, Role, RootCa, Secret},
};
use heddle_plumbing::{
    caller::NodeIdentity,
    tls::{CLOCK_SKEW, MANAGER_NAME, USER_NAME, WORKER_NAME, identity_of, life_of, root_digest},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::{certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer};

/// First field of every token, and its version.
const TOKEN_PREFIX: &str = "HDLTKN-1";
/// A node that was away for longer than this after its certificate ended has to join anew.
const GRACE: Duration = Duration::from_secs(365 * 86400);
const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 86400);

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("the token is not of the form {TOKEN_PREFIX}-<digest>-<secret>: copy it whole from `heddle join-token`")]
    TokenForm,
    #[error("the token is for another cluster: its digest does not match this cluster's root certificate")]
    OtherCluster,
    #[error("the token was replaced or is wrong: get a new one from `heddle join-token worker|manager`")]
    TokenRefused,
    #[error("the old certificate renews nothing: {0}")]
    Former(&'static str),
    #[error("the certificate request is refused")]
    Request(#[source] rcgen::Error),
    #[error("the root key cannot sign")]
    Sign(#[source] rcgen::Error),
}

/// A token in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub root_digest: String,
    pub secret: Secret,
}

impl std::str::FromStr for Token {
    type Err = CaError;
    fn from_str(s: &str) -> Result<Self, CaError> {
        let rest = s.strip_prefix(TOKEN_PREFIX).and_then(|r| r.strip_prefix('-')).ok_or(CaError::TokenForm)?;
        let (digest, secret) = rest.split_once('-').ok_or(CaError::TokenForm)?;
        let hex = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        let base36 = secret.len() == 25 && secret.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        if !hex || !base36 {
            return Err(CaError::TokenForm);
        }
        Ok(Token { root_digest: digest.to_owned(), secret: Secret(secret.to_owned()) })
    }
}

/// A secret from 128 random bits.
pub fn secret(random: [u8; 16]) -> Secret {
    Secret(ClusterId::from_random(random).to_string())
}

pub fn new_tokens(random: [[u8; 16]; 2]) -> JoinTokens {
    let [worker, manager] = random.map(secret);
    JoinTokens { worker, manager }
}

/// The text an operator copies.
pub fn token_text(cluster: &Cluster, role: Role) -> String {
    let secret = match role {
        Role::Worker => &cluster.join_tokens.worker,
        Role::Manager => &cluster.join_tokens.manager,
    };
    format!("{TOKEN_PREFIX}-{}-{}", root_digest(&cluster.root_ca.cert_pem).unwrap_or_default(), secret.0)
}

/// The role that a token gives.
pub fn role_of(token: &str, cluster: &Cluster) -> Result<Role, CaError> {
    let token: Token = token.parse()?;
    if Some(token.root_digest) != root_digest(&cluster.root_ca.cert_pem) {
        return Err(CaError::OtherCluster);
    }
    // Compared by digest, so that the time taken tells nothing of the secret.
    let digest = |s: &Secret| <sha2::Sha256 as sha2::Digest>::digest(s.0.as_bytes());
    let given = digest(&token.secret);
    match (given == digest(&cluster.join_tokens.worker), given == digest(&cluster.join_tokens.manager)) {
        (true, _) => Ok(Role::Worker),
        (_, true) => Ok(Role::Manager),
        _ => Err(CaError::TokenRefused),
    }
}

fn life(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + life;
}

/// A new self-signed root.
pub fn new_root(cluster: &ClusterId) -> Result<RootCa, CaError> {
    let key = KeyPair::generate().map_err(CaError::Sign)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "heddle-ca");
    params.distinguished_name.push(DnType::OrganizationName, cluster.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    life(&mut params, ROOT_LIFE);
    let cert = params.self_signed(&key).map_err(CaError::Sign)?;
    Ok(RootCa { cert_pem: cert.pem(), key_pem: Secret(key.serialize_pem()) })
}

/// Who a node is whose certificate has expired: our root signed it, and its key signed the request.
pub fn former(root: &RootCa, cert_pem: &str, csr_pem: &str, now: Timestamp) -> Result<NodeIdentity, CaError> {
    let refuse = CaError::Former;
    let (_, root) = parse_x509_pem(root.cert_pem.as_bytes()).map_err(|_| refuse("the root cannot be read"))?;
    let root = root.parse_x509().map_err(|_| refuse("the root cannot be read"))?;
    let (_, pem) = parse_x509_pem(cert_pem.as_bytes()).map_err(|_| refuse("it is not PEM"))?;
    let cert = pem.parse_x509().map_err(|_| refuse("it is no certificate"))?;
    cert.verify_signature(Some(root.public_key())).map_err(|_| refuse("it is of another cluster"))?;
    let life = life_of(&pem.contents).ok_or(refuse("it has no end"))?;
    if now.since(life.ends) > GRACE {
        return Err(refuse("it ended more than a year ago: run `heddle leave --force` on the node and join again"));
    }
    let (_, csr) = parse_x509_pem(csr_pem.as_bytes()).map_err(|_| refuse("the request is not PEM"))?;
    let (_, csr) =
        X509CertificationRequest::from_der(&csr.contents).map_err(|_| refuse("the request cannot be read"))?;
    csr.verify_signature().map_err(|_| refuse("the request is not signed by its key"))?;
    if csr.certification_request_info.subject_pki.raw != cert.public_key().raw {
        return Err(refuse("the request is not of its key"));
    }
    identity_of(&pem.contents).ok_or(refuse("it names no node"))
}

/// Signs the key of a request for this node and role; nothing else of the request is used. PEM.
pub fn issue(
    root: &RootCa,
    cluster: &ClusterId,
    node: &NodeId,
    role: Role,
    csr_pem: &str,
    valid: Duration,
) -> Result<String, CaError> {
    let key = KeyPair::from_pem(&root.key_pem.0).map_err(CaError::Sign)?;
    let issuer = Issuer::from_ca_cert_pem(&root.cert_pem, key).map_err(CaError::Sign)?;
    let csr = CertificateSigningRequestParams::from_pem(csr_pem).map_err(CaError::Request)?;
    let name = match role {
        Role::Worker => WORKER_NAME,
        Role::Manager => MANAGER_NAME,
    };
    let mut params = CertificateParams::new([name.to_owned()]).map_err(CaError::Sign)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, node.as_str());
    params.distinguished_name.push(DnType::OrganizationalUnitName, name);
    params.distinguished_name.push(DnType::OrganizationName, cluster.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    life(&mut params, valid);
    Ok(params.signed_by(&csr.public_key, &issuer).map_err(CaError::Sign)?.pem())
}

/// Signs the key of a request for a person, who is known by name and id. It serves nobody: it only asks. PEM.
pub fn issue_user(
    root: &RootCa,
    cluster: &ClusterId,
    name: &str,
    id: &str,
    csr_pem: &str,
    valid: Duration,
) -> Result<String, CaError> {
    let key = KeyPair::from_pem(&root.key_pem.0).map_err(CaError::Sign)?;
    let issuer = Issuer::from_ca_cert_pem(&root.cert_pem, key).map_err(CaError::Sign)?;
    let csr = CertificateSigningRequestParams::from_pem(csr_pem).map_err(CaError::Request)?;
    let mut params = CertificateParams::new([USER_NAME.to_owned()]).map_err(CaError::Sign)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{name}.{id}"));
    params.distinguished_name.push(DnType::OrganizationalUnitName, USER_NAME);
    params.distinguished_name.push(DnType::OrganizationName, cluster.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    life(&mut params, valid);
    Ok(params.signed_by(&csr.public_key, &issuer).map_err(CaError::Sign)?.pem())
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_plumbing::tls::{Credentials, new_key_and_csr};

    #[test]
    fn an_issued_certificate_names_node_role_and_cluster() {
        let (cluster, node) = (ClusterId::from_random([1; 16]), NodeId::from_random([2; 16]));
        let root = new_root(&cluster).unwrap();
        let (key, csr) = new_key_and_csr().unwrap();
        for role in [Role::Worker, Role::Manager] {
            let cert = issue(&root, &cluster, &node, role, &csr, Duration::from_secs(60)).unwrap();
            let identity = Credentials::new(key.clone(), cert, root.cert_pem.clone()).unwrap().identity();
            assert_eq!((identity.node, identity.role, identity.cluster), (node.clone(), role, cluster.clone()));
        }
        assert!(matches!(
            issue(&root, &cluster, &node, Role::Worker, "rubbish", Duration::ZERO),
            Err(CaError::Request(_))
        ));
    }

    #[test]
    fn who_has_the_old_key_is_who_the_old_certificate_says() {
        let (cluster, node) = (ClusterId::from_random([1; 16]), NodeId::from_random([2; 16]));
        let root = new_root(&cluster).unwrap();
        let (key, csr) = new_key_and_csr().unwrap();
        let cert = issue(&root, &cluster, &node, Role::Worker, &csr, Duration::from_secs(60)).unwrap();
        let ends = Credentials::new(key.clone(), cert.clone(), root.cert_pem.clone()).unwrap().life().ends;
        let later = ends.plus(Duration::from_secs(86400));
        let again = heddle_plumbing::tls::csr(&key).unwrap();
        assert_eq!(former(&root, &cert, &again, later).unwrap().node, node);

        let said = |root: &RootCa, cert: &str, csr: &str, at| former(root, cert, csr, at).unwrap_err().to_string();
        let (_, stranger) = new_key_and_csr().unwrap();
        assert!(said(&root, &cert, &stranger, later).ends_with("the request is not of its key"));
        assert!(said(&new_root(&cluster).unwrap(), &cert, &again, later).ends_with("it is of another cluster"));
        assert!(said(&root, &cert, &again, later.plus(GRACE)).contains("more than a year ago"));
        assert!(said(&root, &cert, "rubbish", later).ends_with("the request is not PEM"));
        assert!(said(&root, "rubbish", &again, later).ends_with("it is not PEM"));
    }

    #[test]
    fn tokens_are_whole_or_refused() {
        let digest = "0".repeat(64);
        let secret = "a".repeat(25);
        assert!(format!("HDLTKN-1-{digest}-{secret}").parse::<Token>().is_ok());
        for bad in
            ["", "HDLTKN-1", "HDLTKN-1-x-y", &format!("HDLTKN-2-{digest}-{secret}"), &format!("HDLTKN-1-{digest}-")]
        {
            assert!(matches!(bad.parse::<Token>(), Err(CaError::TokenForm)), "{bad}");
        }
    }
}
