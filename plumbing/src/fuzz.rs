//! What a caller shows and says, tried with what nobody should send: certificates, keys, whom a manager speaks for, methods.

use crate::{
    access::{behalf_of, behalf_text, row},
    caller::{Caller, NodeIdentity},
    tls::{Credentials, MANAGER_NAME, USER_NAME, WORKER_NAME, csr, identity_of, life_of, root_digest, user_of},
};
use heddle_fuzz::{Memory, one_of, run, run_text};
use heddle_model::{ClusterId, NodeId, cluster::Role};
use rcgen::{CertificateParams, DnType, KeyPair};

/// A certificate that its own key signed, and the key, in PEM.
fn certificate(role: &str, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([role.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationalUnitName, role);
    params.distinguished_name.push(DnType::OrganizationName, ClusterId::from_random([1; 16]).as_str());
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn node() -> NodeIdentity {
    NodeIdentity { node: NodeId::from_random([2; 16]), role: Role::Manager, cluster: ClusterId::from_random([1; 16]) }
}

#[test]
fn certificates() {
    let of =
        [(MANAGER_NAME, node().node.to_string()), (WORKER_NAME, node().node.to_string()), (USER_NAME, "al.x".into())];
    let ders = of.map(|(role, name)| pem::parse(certificate(role, &name).0).unwrap().into_contents());
    assert!(identity_of(&ders[0]).is_some() && user_of(&ders[2]).is_some());
    run(Memory::USUAL, one_of(&ders), |der| {
        drop((life_of(der), identity_of(der), user_of(der)));
        assert!(identity_of(der).is_none() || user_of(der).is_none(), "nobody is a node and a person");
    });
}

#[test]
fn files_of_credentials() {
    let (cert, key) = certificate(WORKER_NAME, node().node.as_str());
    run_text(&[&cert, &key], |text| {
        drop(root_digest(text));
        drop(csr(text));
        for at in 0..3 {
            let mut files = [key.clone(), cert.clone(), cert.clone()];
            files[at] = text.to_owned();
            let [key, cert, root] = files;
            drop(Credentials::new(key, cert, root));
        }
    });
}

#[test]
fn for_whom_a_manager_speaks() {
    let id = node().node;
    run_text(&["local".to_owned(), format!("worker {id}"), format!("manager {id}"), "user al.x".to_owned()], |text| {
        let Some(caller) = behalf_of(text, &node()) else { return };
        assert_ne!(caller, Caller::Anonymous);
        // What no header can carry, none brought.
        if text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            let again = behalf_text(&caller).unwrap();
            assert_eq!(behalf_of(again.to_str().unwrap(), &node()), Some(caller));
        }
    });
}

#[test]
fn methods() {
    run_text(&["/heddle.v1.Control/ListNodes", "/heddle.v1.Raft/Vote"], |path| {
        if let Some(row) = row(path) {
            assert_eq!(format!("/{}/{}", row.service, row.method), path);
        }
    });
}
