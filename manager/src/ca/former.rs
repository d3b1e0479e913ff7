//! A node that was away for longer than its certificate counts.

use super::CaError;
use heddle_model::Timestamp;
use heddle_plumbing::{
    caller::NodeIdentity,
    tls::{identity_of, life_of},
};
use std::time::Duration;
use x509_parser::{
    certification_request::X509CertificationRequest,
    pem::{Pem, parse_x509_pem},
    prelude::FromDer,
};

/// A node that was away for longer than this after its certificate ended has to join anew.
const GRACE: Duration = Duration::from_secs(365 * 86400);

/// Who a node is whose certificate has expired: a root of ours signed it, and its key signed the request.
pub fn former(roots_pem: &str, cert_pem: &str, csr_pem: &str, now: Timestamp) -> Result<NodeIdentity, CaError> {
    let refuse = CaError::Former;
    let (_, pem) = parse_x509_pem(cert_pem.as_bytes()).map_err(|_| refuse("it is not PEM"))?;
    let cert = pem.parse_x509().map_err(|_| refuse("it is no certificate"))?;
    let ours = Pem::iter_from_buffer(roots_pem.as_bytes())
        .flatten()
        .any(|root| root.parse_x509().is_ok_and(|root| cert.verify_signature(Some(root.public_key())).is_ok()));
    if !ours {
        return Err(refuse("it is of another cluster, or by a root certificate that counts no more"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{issue, new_root};
    use heddle_model::{
        ClusterId, NodeId,
        cluster::{Role, RootCa},
    };
    use heddle_plumbing::tls::{Credentials, new_key_and_csr};

    #[test]
    fn who_has_the_old_key_is_who_the_old_certificate_says() {
        let (cluster, node) = (ClusterId::from_random([1; 16]), NodeId::from_random([2; 16]));
        let root = new_root(&cluster).unwrap();
        let (key, csr) = new_key_and_csr().unwrap();
        let cert = issue(&root, &cluster, &node, Role::Worker, &csr, Duration::from_secs(60)).unwrap();
        let ends = Credentials::new(key.clone(), cert.clone(), root.cert_pem.clone()).unwrap().life().ends;
        let later = ends.plus(Duration::from_secs(86400));
        let again = heddle_plumbing::tls::csr(&key).unwrap();
        assert_eq!(former(&root.cert_pem, &cert, &again, later).unwrap().node, node);

        let said =
            |root: &RootCa, cert: &str, csr: &str, at| former(&root.cert_pem, cert, csr, at).unwrap_err().to_string();
        let (_, stranger) = new_key_and_csr().unwrap();
        assert!(said(&root, &cert, &stranger, later).ends_with("the request is not of its key"));
        assert!(said(&new_root(&cluster).unwrap(), &cert, &again, later).contains("it is of another cluster"));
        assert!(said(&root, &cert, &again, later.plus(GRACE)).contains("more than a year ago"));
        assert!(said(&root, &cert, "rubbish", later).ends_with("the request is not PEM"));
        assert!(said(&root, "rubbish", &again, later).ends_with("it is not PEM"));
    }
}
