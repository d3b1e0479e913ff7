//! A node that was away for longer than its certificate counts.

use super::CaError;
use heddle_model::Timestamp;
use heddle_plumbing::{
    caller::NodeIdentity,
    tls::{identity_of, life_of},
};
use std::time::Duration;
use x509_parser::{
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    pem::{Pem, parse_x509_pem},
    prelude::FromDer,
};

/// A node that was away for longer than this after its certificate ended has to join anew.
const GRACE: Duration = Duration::from_secs(365 * 86400);

fn by(cert: &X509Certificate, signer: &X509Certificate) -> bool {
    cert.verify_signature(Some(signer.public_key())).is_ok()
}

/// Who a node is whose certificate has expired: a root of ours signed it, and its key signed the request.
pub fn former(roots_pem: &str, cert_pem: &str, csr_pem: &str, now: Timestamp) -> Result<NodeIdentity, CaError> {
    let refuse = CaError::Former;
    let (_, pem) = parse_x509_pem(cert_pem.as_bytes()).map_err(|_| refuse("it is not PEM"))?;
    let cert = pem.parse_x509().map_err(|_| refuse("it is no certificate"))?;
    let by_root = |cert: &X509Certificate| {
        Pem::iter_from_buffer(roots_pem.as_bytes())
            .flatten()
            .any(|root| root.parse_x509().is_ok_and(|root| by(cert, &root)))
    };
    // By a root that was given up, which one of ours had signed. No node's own certificate counts as one.
    let by_signed = || {
        Pem::iter_from_buffer(cert_pem.as_bytes()).flatten().skip(1).any(|middle| {
            middle.parse_x509().is_ok_and(|middle| middle.is_ca() && by_root(&middle) && by(&cert, &middle))
        })
    };
    if !by_root(&cert) && !by_signed() {
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
        cluster::{Role, RootCa, Secret},
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

        // By a root that was to follow and was given up: what leads to ours came with it.
        let given_up = crate::ca::rotation::begin(&root, &cluster, [7; 16], later).unwrap();
        let by_other = issue(&given_up.next, &cluster, &node, Role::Worker, &csr, Duration::from_secs(60)).unwrap();
        let chain = format!("{by_other}{}", given_up.cross_pem);
        assert_eq!(former(&root.cert_pem, &chain, &again, later).unwrap().node, node);
        assert!(former(&root.cert_pem, &by_other, &again, later).is_err());
        // A node is no authority: what it signs is of another cluster.
        let node_as_root = RootCa { cert_pem: cert.clone(), key_pem: Secret(key.clone()) };
        let other = NodeId::from_random([9; 16]);
        let forged = issue(&node_as_root, &cluster, &other, Role::Manager, &csr, Duration::from_secs(60)).unwrap();
        assert!(former(&root.cert_pem, &format!("{forged}{cert}"), &again, later).is_err());

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
