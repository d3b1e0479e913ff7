//! What a call that changes something is about: read from the request on its way to the service. Never what a secret, key or
//! token is.

use heddle_model::{cluster::Role, payload::PayloadKind};
use heddle_proto::v1;
use http_body_util::BodyExt;
use prost::Message;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::{body::Body, codegen::http};

/// What a request of one RPC is about, from its bytes. None: it is no such request.
pub type Object = fn(&[u8]) -> Option<String>;

/// Of an object's text.
const LONGEST: usize = 256;
/// Of a request that is read: as many bytes as tonic takes of a message, and the five before it.
const MOST: usize = (4 << 20) + 5;
const THIS_HOST: &str = "this host";

/// A request that changes something.
pub trait About: Message + Default {
    /// The object by its name or id, as the caller says it.
    fn about(&self) -> String;
}

macro_rules! about {
    ($($request:ident: $about:expr,)*) => {$(
        impl About for v1::$request {
            fn about(&self) -> String {
                let about: fn(&Self) -> String = $about;
                about(self)
            }
        }
    )*};
}

fn name(annotations: Option<&v1::Annotations>) -> String {
    annotations.map(|a| a.name.clone()).unwrap_or_default()
}

fn token(role: v1::Role) -> String {
    format!("{} token", Role::try_from(role).map_or("", Role::as_str))
}

fn payload(kind: v1::PayloadKind, name: &str) -> String {
    format!("{} {name}", PayloadKind::try_from(kind).map_or("", PayloadKind::as_str))
}

about! {
    RefRequest: |r| r.r#ref.clone(),
    UpdateNodeRequest: |r| r.r#ref.clone(),
    RemoveNodeRequest: |r| r.r#ref.clone(),
    CreateNetworkRequest: |r| name(r.spec.as_ref().and_then(|s| s.annotations.as_ref())),
    CreateServiceRequest: |r| name(r.spec.as_ref().and_then(|s| s.annotations.as_ref())),
    ScaleServiceRequest: |r| r.r#ref.clone(),
    RebalanceServiceRequest: |r| r.r#ref.clone(),
    UpdateServiceRequest: |r| r.r#ref.clone(),
    GetJoinTokenRequest: |r| token(r.role()),
    UpdateClusterRequest: |_| "cluster".into(),
    GetUnlockKeyRequest: |_| "unlock key".into(),
    RotateTunnelRequest: |_| "tunnel keys".into(),
    BackupRequest: |_| "cluster".into(),
    CreatePayloadRequest: |r| payload(r.kind(), &name(r.annotations.as_ref())),
    PayloadRequest: |r| payload(r.kind(), &r.r#ref),
    RotateRootRequest: |_| "root certificate".into(),
    AddUserRequest: |r| r.name.clone(),
    RemoveUserRequest: |r| r.name.clone(),
    LeaveNodeRequest: |_| "the caller".into(),
    IssueRequest: |r| r.hostname.clone(),
    RaftJoinRequest: |r| r.node.clone(),
    RaftLeaveRequest: |r| r.raft_id.to_string(),
    RaftMovedRequest: |r| format!("the caller, at {}", r.addr),
    InitRequest: |_| THIS_HOST.into(),
    JoinRequest: |_| THIS_HOST.into(),
    LeaveRequest: |_| THIS_HOST.into(),
    ForceNewClusterRequest: |_| THIS_HOST.into(),
    RestoreChunk: |_| THIS_HOST.into(),
    UnlockRequest: |_| THIS_HOST.into(),
    ConnectNetworkRequest: |r| format!("{} {}", r.target, r.wish.as_ref().map_or("", |w| &w.network)),
    DisconnectNetworkRequest: |r| format!("{} {}", r.target, r.network),
    RunWorkloadRequest: |r| name(r.spec.as_ref().and_then(|s| s.annotations.as_ref())),
    StopWorkloadRequest: |r| r.r#ref.clone(),
    RemoveWorkloadRequest: |r| r.r#ref.clone(),
    PullImageRequest: |r| r.image.clone(),
    RemoveImageRequest: |r| r.r#ref.clone(),
    PruneImagesRequest: |_| "unused images".into(),
    CreateVolumeRequest: |r| name(r.annotations.as_ref()),
    PruneVolumesRequest: |_| "unused volumes".into(),
}

/// Reads a request of this type.
pub fn about<T: About>(message: &[u8]) -> Option<String> {
    let mut about = T::decode(message).ok()?.about();
    about.truncate(about.floor_char_boundary(LONGEST));
    Some(about)
}

/// What has gone by of a request.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    /// The request, and what will have gone by of it.
    pub fn of(request: http::Request<Body>) -> (http::Request<Body>, Seen) {
        let seen = Seen::default();
        let noted = seen.clone();
        let watched = |body: Body| {
            Body::new(body.map_frame(move |frame| {
                frame.data_ref().into_iter().for_each(|data| noted.note(data));
                frame
            }))
        };
        (request.map(watched), seen)
    }

    fn note(&self, data: &[u8]) {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST.saturating_sub(bytes.len());
        bytes.extend_from_slice(&data[..data.len().min(room)]);
    }

    /// What its first message is about.
    pub fn is_about(&self, object: Object) -> Option<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ([compressed, length @ ..], rest) = bytes.split_first_chunk::<5>()?;
        let message = rest.get(..u32::from_be_bytes(*length) as usize)?;
        if *compressed == 0 { object(message) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(compressed: u8, message: &[u8]) -> Vec<u8> {
        [&[compressed][..], &(message.len() as u32).to_be_bytes(), message].concat()
    }

    fn seen(chunks: &[&[u8]]) -> Seen {
        let seen = Seen::default();
        chunks.iter().for_each(|chunk| seen.note(chunk));
        seen
    }

    #[test]
    fn objects_are_named_and_secrets_are_not() {
        fn of<T: About>(request: T) -> String {
            about::<T>(&request.encode_to_vec()).unwrap()
        }
        let annotations = || Some(v1::Annotations { name: "web".into(), ..v1::Annotations::default() });
        let spec = Some(v1::ServiceSpec { annotations: annotations(), ..v1::ServiceSpec::default() });
        assert_eq!(of(v1::CreateServiceRequest { spec, logins: None }), "web");
        assert_eq!(of(v1::CreateServiceRequest::default()), "");
        let kind = v1::PayloadKind::Secret.into();
        let content = b"hidden".to_vec();
        assert_eq!(of(v1::CreatePayloadRequest { kind, annotations: annotations(), content }), "secret web");
        assert_eq!(of(v1::PayloadRequest { kind, r#ref: "x1".into() }), "secret x1");
        let role = v1::Role::Manager.into();
        assert_eq!(of(v1::GetJoinTokenRequest { role, rotate: true }), "manager token");
        let hidden = || "hidden".to_owned();
        let issue =
            v1::IssueRequest { token: hidden(), csr_pem: hidden(), hostname: "h1".into(), ..Default::default() };
        assert_eq!(of(issue), "h1");
        assert_eq!(of(v1::JoinRequest { token: hidden(), ..Default::default() }), "this host");
        assert_eq!(of(v1::UnlockRequest { key: hidden() }), "this host");
        let wish = Some(v1::NetworkWish { network: "front".into(), ..Default::default() });
        assert_eq!(of(v1::ConnectNetworkRequest { target: "x1".into(), wish }), "x1 front");
    }

    #[test]
    fn a_name_that_is_long_is_cut() {
        let long = v1::RefRequest { r#ref: "\u{e9}".repeat(LONGEST) };
        assert_eq!(about::<v1::RefRequest>(&long.encode_to_vec()).unwrap(), "\u{e9}".repeat(LONGEST / 2));
        assert_eq!(about::<v1::RefRequest>(b"\xff"), None);
    }

    #[test]
    fn the_first_message_is_read_when_it_is_whole() {
        let message = v1::RefRequest { r#ref: "web".into() }.encode_to_vec();
        let (whole, packed, none) = (frame(0, &message), frame(1, &message), frame(0, b""));
        let large = frame(0, &v1::RefRequest { r#ref: "x".repeat(MOST - 5) }.encode_to_vec());
        let read = |chunks: &[&[u8]]| seen(chunks).is_about(about::<v1::RefRequest>);
        for (chunks, want) in [
            (vec![&whole[..]], Some("web")),
            (whole.chunks(1).collect(), Some("web")),
            (vec![&whole, &large], Some("web")),
            (vec![&none], Some("")),
            (vec![&whole[..whole.len() - 1]], None),
            (vec![&whole[..4]], None),
            (vec![], None),
            (vec![&packed], None),
            (vec![&large], None),
        ] {
            assert_eq!(read(&chunks).as_deref(), want, "{:?}", chunks.len());
        }
    }
}
