//! Which hosts the tunnel sends to and is not answered by. Decides only.

use crate::agent::TunnelPicture;
use heddle_model::tunnel::PublicKey;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// A session that is older carries nothing any more (REJECT_AFTER_TIME, WireGuard's paper, 6.1).
const OLD: Duration = Duration::from_secs(180);
/// A handshake that is asked for comes within moments, or is asked for again every five seconds (REKEY_TIMEOUT).
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy)]
struct Seen {
    sent: u64,
    /// Since when it is sent to without an answer.
    waits: Option<Instant>,
}

/// What was seen of each key so far.
#[derive(Debug, Default)]
pub struct Silence(BTreeMap<PublicKey, Seen>);

impl Silence {
    /// Takes in what the links tell now. What is wrong, one sentence for each host and key.
    pub fn look(&mut self, peers: &[TunnelPicture], now: Instant) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut next = BTreeMap::new();
        for peer in peers {
            let before = self.0.get(&peer.key);
            let sends = before.is_some_and(|seen| peer.sent > seen.sent);
            let unanswered = sends && peer.last_handshake.is_none_or(|ago| ago > OLD);
            let waits = unanswered.then(|| before.and_then(|seen| seen.waits).unwrap_or(now));
            if waits.is_some_and(|since| now.duration_since(since) >= PATIENCE) {
                complaints.push(complaint(peer));
            }
            next.insert(peer.key, Seen { sent: peer.sent, waits });
        }
        self.0 = next;
        complaints
    }
}

fn complaint(peer: &TunnelPicture) -> String {
    let name = peer.hostname.as_deref().unwrap_or("a host that has left");
    let at = peer.endpoint.map_or_else(String::new, |e| format!(" ({e})"));
    let since = match peer.last_handshake {
        Some(_) => "for more than 3 minutes",
        None => "yet, or for more than 3 minutes",
    };
    let port = peer.endpoint.map_or_else(|| "its port".to_owned(), |e| format!("UDP port {}", e.port()));
    format!(
        "{name}{at}: encrypted packets are sent, but there was no handshake {since}: see that the host runs, and that {port} \
         is open both ways"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::tunnel::Epoch;

    fn peer(n: u8, sent: u64, last_handshake: Option<u64>) -> TunnelPicture {
        TunnelPicture {
            epoch: Epoch(1),
            key: PublicKey([n; 32]),
            hostname: Some(format!("node{n}")),
            endpoint: Some(([10, 77, 0, n], 51821).into()),
            last_handshake: last_handshake.map(Duration::from_secs),
            sent,
            received: 0,
        }
    }

    #[test]
    fn only_who_is_sent_to_and_does_not_answer_is_told() {
        let mut silence = Silence::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // Idle for an hour, in use, never in use; sent to in vain; sent to in vain since its session has ended.
        let look = |round: u64| {
            [
                peer(1, 500, Some(3600)),
                peer(2, 1000 * round, Some(100)),
                peer(3, 0, None),
                peer(4, 148 * round, None),
                peer(5, 148 * round, Some(300)),
            ]
        };
        assert_eq!(silence.look(&look(1), at(0)), [""; 0]);
        assert_eq!(silence.look(&look(2), at(10)), [""; 0]);
        assert_eq!(silence.look(&look(3), at(20)), [""; 0]);
        let told = silence.look(&look(4), at(30));
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(
            told[0],
            "node4 (10.77.0.4:51821): encrypted packets are sent, but there was no handshake yet, or for more than 3 \
             minutes: see that the host runs, and that UDP port 51821 is open both ways"
        );
        assert!(told[1].starts_with("node5 (10.77.0.5:51821): encrypted packets are sent, but"), "{told:?}");
        // It answers.
        let mended = [peer(4, 148 * 5, Some(1)), peer(5, 148 * 5, Some(300))];
        assert_eq!(silence.look(&mended, at(40)).len(), 1);
        // Nothing is sent any more.
        assert_eq!(silence.look(&mended, at(50)), [""; 0]);
    }
}
