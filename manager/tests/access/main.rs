//! Who may call what, over connections as daemons make them: every method of every service, by every kind of caller; and what
//! somebody can do who has a copy of a worker's certificate, or of a removed manager's.
#![allow(clippy::unwrap_used)]

mod large;
mod removed;
mod stage;
mod stolen;
mod users;

use heddle_manager::ca;
use heddle_model::cluster::Role;
use heddle_plumbing::{
    access::{self, Access, Effect},
    tls,
};
use prost::{Message, encoding};
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use stage::{Stage, call};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::net::{TcpListener, UnixListener};
use tonic::{Code, service::Routes, transport::Channel};

/// Every method that the proto files have, as the path it is called by.
fn methods() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(heddle_proto::DESCRIPTORS).unwrap().file;
    let services = files.iter().flat_map(|f| f.service.iter().map(move |s| (f.package(), s)));
    let paths = services.flat_map(|(package, service)| {
        service.method.iter().map(move |m| format!("/{package}.{}/{}", service.name(), m.name()))
    });
    paths.collect()
}

fn table() -> BTreeSet<String> {
    access::rows().map(|r| format!("/{}/{}", r.service, r.method)).collect()
}

#[test]
fn every_method_has_a_row_and_every_row_a_method() {
    let (methods, table) = (methods(), table());
    assert!(methods.len() > 50, "{methods:?}");
    assert_eq!(methods.difference(&table).collect::<Vec<_>>(), Vec::<&String>::new(), "methods without a row");
    assert_eq!(table.difference(&methods).collect::<Vec<_>>(), Vec::<&String>::new(), "rows without a method");
}

fn message<'a>(files: &'a [FileDescriptorProto], of: &str) -> &'a DescriptorProto {
    files.iter().flat_map(|f| &f.message_type).find(|m| of == format!(".heddle.v1.{}", m.name())).unwrap()
}

/// A message of this type in which every text is its field's name, in angle brackets.
fn filled(files: &[FileDescriptorProto], of: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in message(files, of).field.iter().filter(|f| f.label() != Label::Repeated) {
        let (tag, text) = (field.number() as u32, format!("<{}>", field.name()));
        match field.r#type() {
            Type::String => encoding::string::encode(tag, &text, &mut bytes),
            Type::Bytes => encoding::bytes::encode(tag, &text.into_bytes(), &mut bytes),
            Type::Message => encoding::bytes::encode(tag, &filled(files, field.type_name()), &mut bytes),
            Type::Enum | Type::Uint64 | Type::Uint32 | Type::Bool => encoding::uint64::encode(tag, &1, &mut bytes),
            _ => {}
        }
    }
    bytes
}

#[test]
fn what_changes_something_names_what_it_is_about() {
    let files = FileDescriptorSet::decode(heddle_proto::DESCRIPTORS).unwrap().file;
    let services = || files.iter().flat_map(|f| &f.service);
    let mut named = 0;
    for row in access::rows() {
        let Effect::Changes(object) = row.effect else { continue };
        let of = |s: &&ServiceDescriptorProto| row.service == format!("heddle.v1.{}", s.name());
        let method = services().find(of).unwrap().method.iter().find(|m| m.name() == row.method).unwrap();
        let object = object(&filled(&files, method.input_type())).unwrap();
        assert!(!object.trim().is_empty(), "{row:?}");
        for hidden in ["<token>", "<key>", "<content>", "<data>", "<csr_pem>"] {
            assert!(!object.contains(hidden), "{row:?}: {object}");
        }
        // What has a name or a reference is called by it.
        let fields = message(&files, method.input_type()).field.iter().map(|f| f.name());
        for field in fields.filter(|f| ["ref", "name", "target", "node"].contains(f)) {
            assert!(object.contains(&format!("<{field}>")), "{row:?}: {object}");
        }
        named += 1;
    }
    assert!(named > 30, "{named}");
}

const CALLERS: [&str; 5] = ["nobody", "worker", "manager", "user", "root"];

fn admitted(access: Access) -> [bool; 5] {
    match access {
        Access::Anyone => [true, true, true, true, true],
        Access::Member => [false, true, true, false, false],
        Access::Manager => [false, false, true, false, false],
        Access::Operator => [false, false, true, true, true],
        Access::Administrator => [false, false, true, false, true],
        Access::Local => [false, false, false, false, true],
    }
}

/// A server behind the guard that does all it is asked.
fn obliging() -> Routes {
    let done = || async { [("content-type", "application/grpc"), ("grpc-status", "0")] };
    Routes::from(axum::Router::new().fallback(done))
}

/// The connections that callers have to the guard alone, in the order of `CALLERS`.
async fn guarded(stage: &Stage, dir: &std::path::Path) -> [Channel; 5] {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = || access::server(Arc::new(|_, _| Ok(()))).add_routes(obliging());
    tokio::spawn(server().serve_with_incoming(tls::incoming(listener, &stage.credentials, Default::default())));
    let socket = dir.join("socket");
    let local = tls::incoming_unix(UnixListener::bind(&socket).unwrap());
    tokio::spawn(server().serve_with_incoming(local));
    let worker = stage.joined(Role::Worker, 2).await;
    let bare = tls::dial_pinned(addr, &stage.credentials.roots_pem()).unwrap();
    let [worker, manager] = [&worker, &stage.credentials].map(|who| tls::dial(addr, who));
    let (key, csr) = tls::new_key_and_csr().unwrap();
    let cluster = stage.manager.store.snapshot().cluster.clone().unwrap();
    let cert = ca::issue_user(&cluster.root_ca, &cluster.id, "al", "x", &csr, Duration::from_secs(600)).unwrap();
    let user = tls::dial_user(addr, &key, &cert, &stage.credentials.roots_pem()).unwrap();
    [bare, worker, manager, user, tls::dial_unix(socket)]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_admits_exactly_whom_the_table_names() {
    let (stage, dir) = (Stage::set().await, tempfile::tempdir().unwrap());
    let channels = guarded(&stage, dir.path()).await;
    for row in access::rows() {
        let path = format!("/{}/{}", row.service, row.method);
        for ((caller, channel), admitted) in CALLERS.iter().zip(&channels).zip(admitted(row.access)) {
            let said = call(channel, &path).await;
            match admitted {
                true => assert!(said.is_ok(), "{caller} {path}: {said:?}"),
                false => assert_eq!(said.unwrap_err().code(), Code::PermissionDenied, "{caller} {path}"),
            }
        }
    }
}

/// The same at a manager's own port, where nobody is root.
#[tokio::test(flavor = "multi_thread")]
async fn the_port_of_a_manager_refuses_what_the_table_refuses() {
    let stage = Stage::set().await;
    let worker = stage.joined(Role::Worker, 2).await;
    let user = users::add(&stage, "al").await;
    let channels = [stage.dial_bare(), stage.dial(&worker), stage.dial(&stage.credentials), user];
    let mut refused = 0;
    for path in methods() {
        let access = access::row(&path).unwrap().access;
        for ((caller, channel), admitted) in CALLERS.iter().zip(&channels).zip(admitted(access)) {
            if !admitted {
                let said = call(channel, &path).await;
                assert_eq!(said.unwrap_err().code(), Code::PermissionDenied, "{caller} {path}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
    let unknown = call(&channels[2], "/heddle.v1.Control/Destroy").await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_opens_nothing() {
    let (stage, other) = (Stage::set().await, Stage::set().await);
    // It trusts our root, but its own certificate is of the other cluster.
    let forged =
        tls::Credentials::new(other.credentials.key_pem(), other.credentials.cert_pem(), stage.credentials.roots_pem());
    let channel = stage.dial(&forged.unwrap());
    for path in ["/heddle.v1.Control/ListNodes", "/heddle.v1.NodeCa/GetRoot"] {
        let said = call(&channel, path).await.unwrap_err();
        assert!(!matches!(said.code(), Code::Ok | Code::PermissionDenied), "the handshake itself fails: {said}");
    }
    assert!(call(&stage.dial_bare(), "/heddle.v1.NodeCa/GetRoot").await.is_ok());
}
