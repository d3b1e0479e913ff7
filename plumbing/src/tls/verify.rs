//! What certificates say: common name = node, organisational unit = role, organisation = cluster.

use crate::caller::{NodeIdentity, UserIdentity};
use heddle_model::{Timestamp, cluster::Role, node::Trust};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// Organisational unit and DNS name in a manager's certificate.
pub const MANAGER_NAME: &str = "heddle-manager";
/// The same for a worker.
pub const WORKER_NAME: &str = "heddle-worker";

/// The same for a person.
pub const USER_NAME: &str = "heddle-user";

/// Clocks of hosts may differ by this much: certificates count from so long before they were issued.
pub const CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(3600);

/// From when to when a certificate is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub issued: Timestamp,
    pub ends: Timestamp,
}

/// None if it is not a certificate.
pub fn life_of(der: &[u8]) -> Option<Life> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let at = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok().map(|s| Timestamp(s * 1000));
    let validity = cert.validity();
    Some(Life { issued: at(validity.not_before)?.plus(CLOCK_SKEW), ends: at(validity.not_after)? })
}

/// The identity in a DER certificate; None if it is not one of a node.
pub fn identity_of(der: &[u8]) -> Option<NodeIdentity> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let subject = cert.subject();
    let first = |mut values: Vec<String>| (values.len() == 1).then(|| values.remove(0));
    let role = match first(texts(subject.iter_organizational_unit()))?.as_str() {
        MANAGER_NAME => Role::Manager,
        WORKER_NAME => Role::Worker,
        _ => return None,
    };
    Some(NodeIdentity {
        node: first(texts(X509Name::iter_common_name(subject)))?.parse().ok()?,
        role,
        cluster: first(texts(subject.iter_organization()))?.parse().ok()?,
    })
}

/// The person in a DER certificate, whose common name is a name, a dot and an id; None if it is not one of a person.
pub fn user_of(der: &[u8]) -> Option<UserIdentity> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let subject = cert.subject();
    let first = |mut values: Vec<String>| (values.len() == 1).then(|| values.remove(0));
    if first(texts(subject.iter_organizational_unit()))? != USER_NAME {
        return None;
    }
    let common_name = first(texts(X509Name::iter_common_name(subject)))?;
    let (name, id) = common_name.split_once('.')?;
    let cluster = first(texts(subject.iter_organization()))?.parse().ok()?;
    Some(UserIdentity { name: name.to_owned(), id: id.to_owned(), cluster })
}

fn texts<'a>(attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> Vec<String> {
    attributes.filter_map(|a| a.as_str().ok().map(str::to_owned)).collect()
}

fn digest(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of the root certificate's DER, in lower-case hexadecimal: what a join token pins.
pub fn root_digest(cert_pem: &str) -> Option<String> {
    Some(digest(pem::parse(cert_pem).ok()?.contents()))
}

/// What a node believes, and which of that its certificate is by. DER.
pub(super) fn trust_of(certificate: &[u8], roots: &[CertificateDer<'_>]) -> Trust {
    let signer = roots.iter().find(|root| signed_by(certificate, root));
    Trust {
        signer: signer.map(|root| digest(root)).unwrap_or_default(),
        roots: roots.iter().map(|r| digest(r)).collect(),
    }
}

/// Whether the key of a root signed this certificate itself.
fn signed_by(certificate: &[u8], root: &[u8]) -> bool {
    let (Ok((_, certificate)), Ok((_, root))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(root))
    else {
        return false;
    };
    certificate.verify_signature(Some(root.public_key())).is_ok()
}
