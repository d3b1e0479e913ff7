//! The layer before all services of a server.

use super::{Access, Effect, Row, Standing, admit, object::Seen, row};
use crate::caller::{Caller, NodeIdentity, UserIdentity};
use heddle_model::cluster::Role;
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Code, Request, Status, body::Body, codegen::http, metadata::MetadataValue, transport::Server};
use tower::{Layer, Service, layer::util::Stack};

/// Whom a manager passes a request on for: `local`, role and id of a node, or `user`, a name, a dot and an id.
const BEHALF: &str = "heddle-on-behalf-of";
const LOCAL: &str = "local";
const USER: &str = "user";
/// Bytes of a refusal's sentence. It travels as a header, and clients take no more than 16 KiB of those.
const SENTENCE: usize = 2 << 10;

/// A server whose services are called by nobody that the table does not admit.
pub fn server(standing: Standing) -> Server<Stack<Guard, tower::layer::util::Identity>> {
    Server::builder().layer(Guard { standing })
}

/// The request as it is passed on to the leader: it says who asked.
pub fn on_behalf<T>(request: Request<T>) -> Request<T> {
    let asked = request.extensions().get::<Asker>().cloned();
    let mut onward = Request::new(request.into_inner());
    if let Some(text) = asked.and_then(|Asker(caller)| behalf_text(&caller)) {
        onward.metadata_mut().insert(BEHALF, text);
    }
    onward
}

/// Who asked first, where the caller is a manager that passes it on.
#[derive(Debug, Clone)]
struct Asker(Caller);

pub(crate) fn behalf_text(caller: &Caller) -> Option<MetadataValue<tonic::metadata::Ascii>> {
    let text = match caller {
        Caller::Anonymous => return None,
        Caller::Local => LOCAL.to_owned(),
        Caller::Node(n) => format!("{} {}", n.role, n.node),
        Caller::User(u) => format!("{USER} {}.{}", u.name, u.id),
    };
    text.parse().ok()
}

/// None: the text names nobody.
pub(crate) fn behalf_of(text: &str, by: &NodeIdentity) -> Option<Caller> {
    if text == LOCAL {
        return Some(Caller::Local);
    }
    let cluster = by.cluster.clone();
    let (role, node) = text.split_once(' ')?;
    if role == USER {
        let (name, id) = node.split_once('.')?;
        return Some(Caller::User(UserIdentity { name: name.to_owned(), id: id.to_owned(), cluster }));
    }
    let role = [Role::Worker, Role::Manager].into_iter().find(|r| r.as_str() == role)?;
    Some(Caller::Node(NodeIdentity { node: node.parse().ok()?, role, cluster }))
}

#[derive(Clone)]
pub struct Guard {
    standing: Standing,
}

impl Guard {
    fn stands(&self, row: &Row, caller: &Caller) -> Result<(), Status> {
        match caller {
            // Of these the service judges what they show: a certificate that counts no more may be there to be renewed.
            _ if row.access == Access::Anyone => Ok(()),
            Caller::Node(_) | Caller::User(_) => (self.standing)(row.access, caller),
            Caller::Local | Caller::Anonymous => Ok(()),
        }
    }

    /// What the table says of the method, and who asks; or why not.
    fn judge(&self, path: &str, caller: &Caller, behalf: Option<&str>) -> Result<(Row, Caller), Status> {
        let row = admit(path, caller)?;
        self.stands(&row, caller)?;
        let (Some(text), Caller::Node(by)) = (behalf, caller) else { return Ok((row, caller.clone())) };
        if by.role != Role::Manager {
            return Err(Status::permission_denied("only a manager speaks for others"));
        }
        let asker = behalf_of(text, by)
            .ok_or_else(|| Status::invalid_argument(format!("metadata {BEHALF}: {text:?} names nobody")))?;
        admit(path, &asker)?;
        self.stands(&row, &asker)?;
        Ok((row, asker))
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;
    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Future: Send + 'static>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Anonymous);
        let behalf = request.headers().get(BEHALF).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let path = request.uri().path().to_owned();
        let (row, asker) = match self.guard.judge(&path, &caller, behalf.as_deref()) {
            Ok(admitted) => admitted,
            Err(status) => {
                tracing::info!(target: "audit", method = path, %caller, code = ?status.code(), "refused");
                row(&path).iter().for_each(|row| counted(row, status.code()));
                let mut refusal = status.into_http();
                brief(&mut refusal);
                return Box::pin(async move { Ok(refusal) });
            }
        };
        request.extensions_mut().insert(Asker(asker.clone()));
        let changes = match row.effect {
            Effect::Reads => None,
            Effect::Changes(object) => {
                let (watched, seen) = Seen::of(request);
                request = watched;
                Some((object, seen))
            }
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut answer = answer.await;
            if let Ok(response) = &mut answer {
                let code = brief(response);
                counted(&row, code);
                if let Some((object, seen)) = changes {
                    let object = seen.is_about(object).unwrap_or_default();
                    tracing::info!(target: "audit", method = path, object, %caller, %asker, ?code, "called");
                }
            }
            answer
        })
    }
}

/// Cuts the sentence of a refusal if it is long, as one is that repeats what was asked. The code of the answer.
fn brief(response: &mut http::Response<Body>) -> Code {
    let Some(status) = Status::from_header_map(response.headers()) else { return Code::Ok };
    let sentence = status.message();
    if sentence.len() > SENTENCE {
        let end = sentence.floor_char_boundary(SENTENCE);
        let shorter = Status::new(status.code(), format!("{}...", &sentence[..end]));
        // What cannot be put into a header is no answer either.
        if let Err(error) = shorter.add_header(response.headers_mut()) {
            tracing::warn!(%error, "a refusal cannot be told");
        }
    }
    status.code()
}

/// A method that nobody has is counted nowhere: names are the caller's choice.
fn counted(row: &Row, code: Code) {
    let (service, method) = (row.service, row.method);
    let labels = [("service", service.into()), ("method", method.into()), ("code", format!("{code:?}"))];
    metrics::counter!("heddle_rpc_requests_total", &labels).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::{ClusterId, NodeId};
    use heddle_proto::v1;
    use prost::Message;
    use std::sync::{Arc, Mutex};

    fn node(n: u8, role: Role) -> NodeIdentity {
        NodeIdentity { node: NodeId::from_random([n; 16]), role, cluster: ClusterId::from_random([9; 16]) }
    }

    /// Node 3 counts no more.
    fn guard() -> Guard {
        let removed = node(3, Role::Manager).node;
        let standing = move |_: Access, who: &Caller| match who {
            Caller::Node(n) if n.node == removed => Err(Status::permission_denied("gone")),
            _ => Ok(()),
        };
        Guard { standing: Arc::new(standing) }
    }

    #[test]
    fn who_is_spoken_for_must_be_admitted_too() {
        let text = |n, role| behalf_text(&Caller::Node(node(n, role))).unwrap().to_str().unwrap().to_owned();
        let (manager, worker) = (Caller::Node(node(1, Role::Manager)), Caller::Node(node(2, Role::Worker)));
        let list = "/heddle.v1.Control/ListNodes";
        let said = |caller, behalf: Option<&str>| guard().judge(list, caller, behalf).map(|(_, asker)| asker);
        assert_eq!(said(&manager, None).unwrap(), manager);
        assert_eq!(said(&manager, Some(LOCAL)).unwrap(), Caller::Local);
        let other = Caller::Node(node(4, Role::Manager));
        assert_eq!(said(&manager, Some(&text(4, Role::Manager))).unwrap(), other);
        let person = UserIdentity { name: "al".into(), id: "x1".into(), cluster: node(1, Role::Manager).cluster };
        let text_of_person = behalf_text(&Caller::User(person.clone())).unwrap().to_str().unwrap().to_owned();
        assert_eq!(said(&manager, Some(&text_of_person)).unwrap(), Caller::User(person));
        for (behalf, code) in [
            (text(2, Role::Worker), Code::PermissionDenied),
            (text(3, Role::Manager), Code::PermissionDenied),
            ("root".into(), Code::InvalidArgument),
        ] {
            assert_eq!(said(&manager, Some(&behalf)).unwrap_err().code(), code, "{behalf}");
        }
        assert_eq!(said(&worker, Some(LOCAL)).unwrap_err().code(), Code::PermissionDenied);
        let session = guard().judge("/heddle.v1.Dispatcher/Session", &worker, Some(LOCAL));
        assert_eq!(session.unwrap_err().message(), "only a manager speaks for others");
    }

    #[test]
    fn a_refusal_fits_into_a_header() {
        let told = |sentence: &str| {
            let mut response = Status::invalid_argument(sentence).into_http();
            assert_eq!(brief(&mut response), Code::InvalidArgument);
            Status::from_header_map(response.headers()).unwrap().message().to_owned()
        };
        assert_eq!(told("field name: wrong"), "field name: wrong");
        let said = told(&format!("name {:?} is wrong", "\u{e9}".repeat(1 << 20)));
        assert!(said.starts_with("name \"\u{e9}") && said.ends_with("\u{e9}..."), "{said}");
        assert!(said.len() <= SENTENCE + 3);
        assert_eq!(brief(&mut http::Response::new(Body::empty())), Code::Ok);
    }

    #[test]
    fn a_certificate_that_counts_no_more_may_still_be_renewed() {
        let gone = Caller::Node(node(3, Role::Manager));
        assert!(guard().judge("/heddle.v1.Raft/Vote", &gone, None).is_err());
        assert!(guard().judge("/heddle.v1.NodeCa/Renew", &gone, None).is_ok());
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What the audit says of one call.
    async fn audited(path: &str, caller: Caller, behalf: Option<&str>, message: impl Message) -> String {
        let log = Log::default();
        let write = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(move || write.clone());
        let _logged = tracing::subscriber::set_default(subscriber.finish());
        let service = tower::service_fn(|request: http::Request<Body>| async {
            http_body_util::BodyExt::collect(request.into_body()).await.unwrap();
            Ok::<_, std::convert::Infallible>(Status::not_found("none").into_http())
        });
        let message = message.encode_to_vec();
        let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
        let mut request = http::Request::new(Body::new(http_body_util::Full::from(frame)));
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(caller);
        behalf.map(|behalf| request.headers_mut().insert(BEHALF, behalf.parse().unwrap()));
        guard().layer(service).call(request).await.unwrap();
        let said = log.0.lock().unwrap();
        String::from_utf8(said.clone()).unwrap()
    }

    #[tokio::test]
    async fn the_audit_says_who_called_what_on_which_object() {
        let manager = Caller::Node(node(1, Role::Manager));
        let web = || v1::RefRequest { r#ref: "web\n".into() };
        let remove = "/heddle.v1.Control/RemoveService";
        let said = audited(remove, manager.clone(), Some(LOCAL), web()).await;
        let by = format!("caller={manager} asker={}", Caller::Local);
        assert_eq!(said, format!(" INFO audit: called method=\"{remove}\" object=\"web\\n\" {by} code=NotFound\n"));
        assert_eq!(audited("/heddle.v1.Control/GetService", manager, None, web()).await, "");
        let said = audited(remove, Caller::Node(node(2, Role::Worker)), None, web()).await;
        assert!(said.contains("refused") && said.contains("code=PermissionDenied"), "{said}");
        let annotations = Some(v1::Annotations { name: "db".into(), ..v1::Annotations::default() });
        let secret = v1::CreatePayloadRequest { kind: 1, annotations, content: b"hidden".to_vec() };
        let said = audited("/heddle.v1.Payloads/CreatePayload", Caller::Local, None, secret).await;
        assert!(said.contains("object=\"secret db\"") && !said.contains("hidden"), "{said}");
    }
}
