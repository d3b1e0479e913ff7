//! Many targets asked at once, each once, to learn which of them answer.

use super::ask::{ask_tcp, ask_udp};
use serde::Serialize;
use std::{io, net::SocketAddr, str::FromStr, time::Duration};
use tokio::{net::lookup_host, task::JoinSet, time::timeout};

/// A datagram may be lost.
const AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    text: String,
    udp: bool,
    v4: bool,
    /// HOST:PORT
    to: String,
}

#[derive(Debug, thiserror::Error)]
#[error("target {0:?}: use tcp4:, tcp6:, udp4: or udp6: and HOST:PORT, such as tcp4:web:80")]
pub struct BadTarget(String);

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let bad = || BadTarget(text.to_owned());
        let (kind, to) = text.split_once(':').ok_or_else(bad)?;
        let (udp, v4) = match kind {
            "tcp4" => (false, true),
            "tcp6" => (false, false),
            "udp4" => (true, true),
            "udp6" => (true, false),
            _ => return Err(bad()),
        };
        let port = to.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, p)| p.parse::<u16>().ok());
        port.filter(|p| *p > 0).ok_or_else(bad)?;
        Ok(Self { text: text.to_owned(), udp, v4, to: to.to_owned() })
    }
}

/// What a target said, or why there is nothing.
#[derive(Debug, Serialize)]
struct Outcome {
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Prints one JSON object for each target, in the order of their answers. That a target is silent is no failure.
pub async fn run(targets: &[Target], limit: Duration) {
    let mut asked = JoinSet::new();
    for target in targets.iter().cloned() {
        asked.spawn(async move {
            let answered = timeout(limit, ask(&target)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let answered = answered.and_then(|text| serde_json::from_str(&text).map_err(io::Error::other));
            let (answer, error) = match answered {
                Ok(answer) => (Some(answer), None),
                Err(e) => (None, Some(e.to_string())),
            };
            Outcome { target: target.text, answer, error }
        });
    }
    while let Some(outcome) = asked.join_next().await {
        if let Some(line) = outcome.ok().and_then(|o| serde_json::to_string(&o).ok()) {
            println!("{line}");
        }
    }
}

async fn ask(target: &Target) -> io::Result<String> {
    let addr = lookup_host(&target.to).await?.find(|a| a.is_ipv4() == target.v4);
    let addr: SocketAddr = addr.ok_or(io::ErrorKind::NotFound)?;
    if !target.udp {
        return ask_tcp(addr, &target.to).await;
    }
    loop {
        if let Ok(answered) = timeout(AGAIN, ask_udp(addr)).await {
            return answered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_a_protocol_a_family_a_host_and_a_port() {
        for (text, udp, v4, to) in [
            ("tcp4:10.0.0.1:80", false, true, "10.0.0.1:80"),
            ("udp6:[fd00::1]:80", true, false, "[fd00::1]:80"),
            ("tcp6:web:80", false, false, "web:80"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.udp, target.v4, target.to.as_str()), (udp, v4, to), "{text}");
        }
        for text in ["", "web:80", "tcp:web:80", "tcp4:web", "tcp4::80", "tcp4:web:0", "udp4:web:65536"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
