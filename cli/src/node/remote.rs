//! What a host that is not in a cluster yet, or on its way out, says to managers.

use super::state::NodeState;
use anyhow::{Result, anyhow, bail};
use heddle_manager::ca;
use heddle_plumbing::tls::{self, Credentials};
use heddle_proto::v1::{self, dispatcher_client::DispatcherClient, node_ca_client::NodeCaClient};
use std::{net::SocketAddr, time::Duration};

const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Asks the managers in turn for a certificate. Nothing is sent to one whose root is not the token's.
pub async fn issue(
    managers: &[SocketAddr],
    token: &ca::Token,
    text: &str,
    state: &NodeState,
) -> Result<(Credentials, v1::IssueResponse)> {
    let (key, csr) = tls::new_key_and_csr()?;
    let mut last = anyhow!("no manager is given: heddle join --token TOKEN IP:PORT");
    for addr in managers {
        let unreachable = |s: tonic::Status| anyhow!("the manager at {addr} does not answer: {}", s.message());
        let root = match NodeCaClient::new(tls::fetch_root(*addr)?).get_root(v1::GetRootRequest {}).await {
            Ok(answer) => answer.into_inner().cert_pem,
            Err(status) => {
                last = unreachable(status);
                continue;
            }
        };
        if tls::root_digest(&root).as_ref() != Some(&token.root_digest) {
            bail!(
                "the token is for another cluster than the one at {addr}, or for the root that it had before: use a token of that cluster as it is \
                 now"
            );
        }
        let mut request = tonic::Request::new(v1::IssueRequest {
            token: text.to_owned(),
            csr_pem: csr.clone(),
            data_path_addr: state.data_path.to_string(),
            hostname: heddle_agent::host::describe(state.data_path).hostname,
            control_addr: state.advertise.to_string(),
        });
        request.set_timeout(CALL_LIMIT);
        match NodeCaClient::new(tls::dial_pinned(*addr, &root)?).issue(request).await {
            Ok(answer) => {
                let issued = answer.into_inner();
                // A manager of an older version knows of one root.
                let roots = if issued.roots_pem.is_empty() { root } else { issued.roots_pem.clone() };
                return Ok((Credentials::new(key, issued.cert_pem.clone(), roots)?, issued));
            }
            Err(status) if status.code() == tonic::Code::Unavailable => last = unreachable(status),
            Err(status) => bail!("{}", status.message()),
        }
    }
    Err(last)
}

pub async fn leave_cluster(managers: &[SocketAddr], credentials: &Credentials) -> Result<()> {
    let mut last = anyhow!("no manager is known: with --force the host leaves without telling the cluster");
    for addr in managers {
        let mut client = DispatcherClient::new(tls::dial(*addr, credentials));
        let mut request = tonic::Request::new(v1::LeaveNodeRequest {});
        request.set_timeout(CALL_LIMIT);
        match client.leave(request).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(()),
            Err(status) => last = anyhow!("the manager at {addr} does not let this node go: {}", status.message()),
        }
    }
    Err(last)
}
