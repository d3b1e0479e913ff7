//! Certificates by the root's key.

use super::CaError;
use heddle_model::{
    ClusterId, NodeId,
    cluster::{Cluster, Role, RootCa, Secret},
};
use heddle_plumbing::tls::{CLOCK_SKEW, MANAGER_NAME, USER_NAME, WORKER_NAME};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::time::Duration;
use time::OffsetDateTime;

const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 86400);

fn life(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + life;
}

/// What a root's certificate says, whoever signs it.
fn root_params(cluster: &ClusterId, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, cluster.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    life(&mut params, ROOT_LIFE);
    params
}

/// A new self-signed root.
pub fn new_root(cluster: &ClusterId) -> Result<RootCa, CaError> {
    Ok(root_and_key(cluster, "heddle-ca")?.0)
}

fn root_and_key(cluster: &ClusterId, name: &str) -> Result<(RootCa, KeyPair), CaError> {
    let key = KeyPair::generate().map_err(CaError::Sign)?;
    let cert = root_params(cluster, name).self_signed(&key).map_err(CaError::Sign)?;
    Ok((RootCa { cert_pem: cert.pem(), key_pem: Secret(key.serialize_pem()) }, key))
}

/// A new root of this name, self-signed, and what leads from it to the one before: its name and key, signed by that. PEM.
pub(super) fn next_root(before: &RootCa, cluster: &ClusterId, name: &str) -> Result<(RootCa, String), CaError> {
    let (next, key) = root_and_key(cluster, name)?;
    let cross = root_params(cluster, name).signed_by(&key, &issuer(before)?).map_err(CaError::Sign)?;
    Ok((next, cross.pem()))
}

fn issuer(root: &RootCa) -> Result<Issuer<'static, KeyPair>, CaError> {
    let key = KeyPair::from_pem(&root.key_pem.0).map_err(CaError::Sign)?;
    Issuer::from_ca_cert_pem(&root.cert_pem, key).map_err(CaError::Sign)
}

/// A certificate for this node and role by the root that signs now, and what leads to one that others may believe still. PEM.
pub fn certificate(cluster: &Cluster, node: &NodeId, role: Role, csr_pem: &str) -> Result<String, CaError> {
    let cert = issue(cluster.signer(), &cluster.id, node, role, csr_pem, cluster.spec.node_cert_life)?;
    Ok(cert + cross(cluster))
}

/// The same for a person.
pub fn user_certificate(
    cluster: &Cluster,
    name: &str,
    id: &str,
    csr_pem: &str,
    valid: Duration,
) -> Result<String, CaError> {
    Ok(issue_user(cluster.signer(), &cluster.id, name, id, csr_pem, valid)? + cross(cluster))
}

fn cross(cluster: &Cluster) -> &str {
    cluster.rotation.as_ref().map_or("", |rotation| &rotation.cross_pem)
}

/// For this node and role, by this root. PEM.
pub fn issue(
    root: &RootCa,
    cluster: &ClusterId,
    node: &NodeId,
    role: Role,
    csr_pem: &str,
    valid: Duration,
) -> Result<String, CaError> {
    let unit = match role {
        Role::Worker => WORKER_NAME,
        Role::Manager => MANAGER_NAME,
    };
    let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    signed(root, cluster, unit, node.as_str(), usages, csr_pem, valid)
}

/// For a person, who is known by name and id. It serves nobody: it only asks. PEM.
pub fn issue_user(
    root: &RootCa,
    cluster: &ClusterId,
    name: &str,
    id: &str,
    csr_pem: &str,
    valid: Duration,
) -> Result<String, CaError> {
    let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    signed(root, cluster, USER_NAME, &format!("{name}.{id}"), usages, csr_pem, valid)
}

/// Signs the key of a request; nothing else of the request is used.
fn signed(
    root: &RootCa,
    cluster: &ClusterId,
    unit: &str,
    common_name: &str,
    usages: Vec<ExtendedKeyUsagePurpose>,
    csr_pem: &str,
    valid: Duration,
) -> Result<String, CaError> {
    let issuer = issuer(root)?;
    let csr = CertificateSigningRequestParams::from_pem(csr_pem).map_err(CaError::Request)?;
    let mut params = CertificateParams::new([unit.to_owned()]).map_err(CaError::Sign)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    params.distinguished_name.push(DnType::OrganizationName, cluster.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
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
}
