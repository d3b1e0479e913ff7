//! Keeps this node's certificate young. A new one counts from the next handshake on; open connections go on as they are.

use crate::commands::moment;
use anyhow::{Result, anyhow};
use heddle_agent::{agent::Status, session::Wish};
use heddle_manager::{manager::Manager, store::now};
use heddle_model::Timestamp;
use heddle_plumbing::tls::{self, Credentials, Life};
use heddle_proto::v1::{self, node_ca_client::NodeCaClient};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};

/// Of its life, between these shares: nodes that joined together do not all come together.
const SHARES: std::ops::Range<f64> = 0.5..0.8;
/// The clock may be set, and the host may sleep: it is looked at again and again.
const LOOK: std::ops::RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(60);
const CALL_LIMIT: Duration = Duration::from_secs(10);

pub struct Renewal {
    pub credentials: Credentials,
    /// Where they are kept.
    pub dir: PathBuf,
    pub agent: watch::Receiver<Status>,
    /// The managers that were known when the node joined.
    pub managers: Vec<SocketAddr>,
    /// Of this node, if it is one.
    pub manager: Option<Manager>,
    /// Where the control API listens, or would.
    pub control_addr: SocketAddr,
    /// Rung when the managers do not let this one in with the certificate that it has, though it says the right role: the node was
    /// demoted and promoted again since that was made.
    pub outdated: Arc<Notify>,
    /// Rung when the certificate says another role than before.
    pub roles: Arc<Notify>,
}

/// After this share of its life.
fn due(life: Life, share: f64) -> Timestamp {
    life.issued.plus(life.ends.since(life.issued).mul_f64(share))
}

impl Renewal {
    pub async fn run(mut self) {
        loop {
            let life = self.credentials.life();
            let due = due(life, rand::random_range(SHARES));
            let pause = (life.ends.since(life.issued) / 40).clamp(*LOOK.start(), *LOOK.end());
            while now() < due && !self.is_to_be_other() {
                if let Err(error) = self.believe() {
                    tracing::warn!("this node does not believe the roots that it is to believe: {error:#}");
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    changed = self.agent.changed() => if changed.is_err() { return },
                    () = self.outdated.notified() => break,
                }
            }
            while let Err(error) = self.renew().await {
                tracing::warn!("the node's certificate is not renewed: {error:#}");
                tokio::time::sleep(pause).await;
            }
            // What the managers last said of the role may be older than the certificate.
            tokio::time::sleep(*LOOK.start()).await;
        }
    }

    /// Whether its certificate should be of another role, or by another root.
    fn is_to_be_other(&self) -> bool {
        let differs = |wish: &Wish| {
            let by_other = !wish.signer.is_empty() && wish.signer != self.credentials.trust().signer;
            wish.role != self.credentials.identity().role || by_other
        };
        self.agent.borrow().wish.as_ref().is_some_and(differs)
    }

    /// Trusts what the managers say is to be trusted.
    fn believe(&self) -> Result<()> {
        let roots_pem = self.agent.borrow().wish.as_ref().map(|wish| wish.roots_pem.clone()).unwrap_or_default();
        if roots_pem.is_empty() || roots_pem == self.credentials.roots_pem() {
            return Ok(());
        }
        let now = &self.credentials;
        self.take(now.key_pem(), now.cert_pem(), roots_pem)?;
        tracing::info!(trusts = ?self.credentials.trust().roots, "this node trusts other roots");
        Ok(())
    }

    /// Stored before they are used: the managers hear what this node has, and forget what it does without.
    fn take(&self, key: String, cert: String, roots: String) -> Result<()> {
        let next = Credentials::new(key.clone(), cert.clone(), roots.clone())?;
        match &self.manager {
            Some(manager) => manager.vault().save(&next)?,
            None => next.save(&self.dir)?,
        }
        Ok(self.credentials.replace(key, cert, roots)?)
    }

    async fn renew(&self) -> Result<()> {
        let expired = now() >= self.credentials.life().ends;
        // Without a certificate that counts, the old key shows who asks.
        let (key, csr) = match expired {
            true => (self.credentials.key_pem(), tls::csr(&self.credentials.key_pem())?),
            false => tls::new_key_and_csr()?,
        };
        let (cert, roots) = match &self.manager {
            Some(manager) if expired => manager.certify(&csr)?,
            _ => self.ask(csr, expired).await?,
        };
        let before = self.credentials.identity().role;
        self.take(key, cert, roots)?;
        if self.credentials.identity().role != before {
            self.roles.notify_one();
        }
        tracing::info!(ends = moment::show(self.credentials.life().ends.0), "the node's certificate is renewed");
        Ok(())
    }

    /// The certificate and the roots, from whichever manager answers first.
    async fn ask(&self, csr_pem: String, expired: bool) -> Result<(String, String)> {
        let known = self.agent.borrow().managers.clone();
        let mut managers: Vec<SocketAddr> = known.iter().filter_map(|m| m.parse().ok()).collect();
        managers.extend(self.managers.iter().filter(|m| !known.contains(&m.to_string())));
        let expired_pem = if expired { self.credentials.cert_pem() } else { String::new() };
        let control_addr = self.control_addr.to_string();
        let wish = v1::RenewRequest { csr_pem, expired_pem, node: String::new(), control_addr };
        let mut last = anyhow!("no manager is known");
        for addr in managers {
            let channel = match expired {
                true => tls::dial_pinned(addr, &self.credentials.roots_pem())?,
                false => tls::dial(addr, &self.credentials),
            };
            let mut request = tonic::Request::new(wish.clone());
            request.set_timeout(CALL_LIMIT);
            match NodeCaClient::new(channel).renew(request).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    return Ok((answer.cert_pem, answer.roots_pem));
                }
                Err(status) => last = anyhow!("the manager at {addr}: {}", status.message()),
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_after_a_share_of_its_life() {
        let life = Life { issued: Timestamp(1000), ends: Timestamp(11_000) };
        assert_eq!(due(life, 0.5), Timestamp(6000));
        assert_eq!(due(life, 0.8), Timestamp(9000));
        // A clock that is behind sees a certificate of tomorrow: nothing is due, and nothing breaks.
        assert_eq!(due(Life { issued: Timestamp(5), ends: Timestamp(1) }, 0.5), Timestamp(5));
    }
}
