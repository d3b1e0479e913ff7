//! Which leader an agent stays with.

use super::*;
use heddle_plumbing::tls::MANAGER_NAME;
use tonic::transport::Endpoint;

const LEADER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2377);

/// Of a node that certified itself.
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

fn session(events: mpsc::Sender<Event>) -> Session {
    Session {
        credentials: credentials(),
        managers: Vec::new(),
        data_path_addr: LEADER.ip(),
        describe: Box::new(|_| NodeDescription::default()),
        events,
        speak: watch::channel(None).0,
        anew: Arc::default(),
        changed: Arc::default(),
        fence: Fence::default(),
        silent_since: Instant::now(),
    }
}

fn message(message: ToAgent) -> Result<v1::ManagerMessage, Status> {
    Ok(v1::ManagerMessage { message: Some(message) })
}

/// A leader that is heard of for this long.
struct Leader {
    heartbeat_ms: u32,
    /// None: of a version that tells no signer, and answers no heartbeat.
    answers_for: Option<Duration>,
    /// What it sends at every heartbeat in place of an answer.
    instead: Option<ToAgent>,
}

impl Leader {
    /// How long an agent stays with it; None: an hour and more. It asks for few answers while it gets them.
    async fn keeps(self) -> Option<Duration> {
        let (events, mut heard) = mpsc::channel(16);
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let (speak, mut spoken) = mpsc::channel(16);
        let (say, said) = mpsc::channel(16);
        let signer = self.answers_for.map_or_else(String::new, |_| "root".into());
        let info = v1::SessionInfo { heartbeat_ms: self.heartbeat_ms, signer, ..v1::SessionInfo::default() };
        say.send(message(ToAgent::Session(info))).await.unwrap();
        let begun = Instant::now();
        tokio::spawn(async move {
            let (mut beats, mut asked) = (0, 0);
            while let Some(spoken) = spoken.recv().await {
                let FromAgent::Heartbeat(beat) = spoken else { continue };
                beats += 1;
                if !beat.answer {
                    continue;
                }
                asked += 1;
                if self.answers_for.is_some_and(|long| begun.elapsed() < long) {
                    let answer = self.instead.clone().unwrap_or(ToAgent::Beat(v1::Beat {}));
                    assert!(2 * asked <= beats, "{asked} of {beats} heartbeats ask for an answer");
                    // The agent may be gone.
                    drop(say.send(message(answer)).await);
                }
            }
        });
        let (mut session, channel) = (session(events), Endpoint::from_static("http://leader").connect_lazy());
        let kept = session.keep(LEADER, channel, NodeDescription::default(), speak, ReceiverStream::new(said));
        let kept = tokio::time::timeout(Duration::from_secs(3600), kept).await.ok()?;
        assert_eq!(kept, None, "where to go next is not known");
        Some(begun.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_left_and_one_that_answers_is_not() {
    let minute = Duration::from_secs(60);
    let logs = ToAgent::CancelLogs(v1::LogCancel { id: "x".into() });
    for (heartbeat_ms, instead, patience) in [(300, None, 4), (1000, None, 4), (2000, None, 6), (300, Some(logs), 4)] {
        let leader = |answers_for| Leader { heartbeat_ms, answers_for: Some(answers_for), instead: instead.clone() };
        assert_eq!(leader(Duration::MAX).keeps().await, None, "{heartbeat_ms} {instead:?}");
        let kept = leader(minute).keeps().await.unwrap();
        // The last answer came up to half of its patience earlier.
        let (beat, over) = (Duration::from_millis(heartbeat_ms.into()), kept - minute);
        let patience_left = Duration::from_secs(patience) / 2 - beat..=Duration::from_secs(patience) + beat;
        assert!(patience_left.contains(&over), "{heartbeat_ms} {instead:?}: {kept:?}");
        let never = leader(Duration::ZERO).keeps().await.unwrap();
        assert!(
            never.as_secs().abs_diff(patience) <= 1 + u64::from(heartbeat_ms) / 1000,
            "{heartbeat_ms} {instead:?}: {never:?}"
        );
    }
    let older = Leader { heartbeat_ms: 300, answers_for: None, instead: None };
    assert_eq!(older.keeps().await, None, "it answers no heartbeat, as is expected of it");
}
