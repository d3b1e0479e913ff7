//! Networks of this host and of the cluster by name or id, this host's first.

use super::cluster;
use crate::client::Control;
use heddle_model::network::{DEFAULT, GATEWAY, HOST, NONE};
use heddle_proto::v1::{self, host_client::HostClient};
use serde_json::Value;
use tonic::{Code, Status, transport::Channel};

pub struct Found {
    pub document: Value,
    /// The managers decide over it.
    pub of_cluster: bool,
}

impl Found {
    pub fn id(&self) -> &str {
        self.document["Id"].as_str().unwrap_or_default()
    }
}

fn wrong(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("the daemon's answer cannot be read: {error}"))
}

/// docker's word for the cluster's scope.
pub fn of_cluster(document: &Value) -> bool {
    document["Scope"] == "swarm"
}

/// Whether every host has it, or a cluster makes it by itself.
pub fn is_builtin(document: &Value) -> bool {
    let name = document["Name"].as_str().unwrap_or_default();
    document["Ingress"] == true || [DEFAULT, HOST, NONE, GATEWAY].contains(&name)
}

/// Whether nothing that can be seen from here is on it.
pub fn is_unused(document: &Value) -> bool {
    let empty = |key: &str| document[key].as_object().is_none_or(|all| all.is_empty());
    empty("Containers") && empty("Services")
}

pub async fn find(host: &mut HostClient<Channel>, control: &mut Control, r#ref: &str) -> Result<Found, Status> {
    let request = |r#ref: &str| v1::RefRequest { r#ref: r#ref.to_owned() };
    let local = match host.inspect_network(request(r#ref)).await {
        Ok(answer) => Ok(serde_json::from_str::<Value>(&answer.into_inner().json).map_err(wrong)?),
        // It may be known to managers alone.
        Err(status) if status.code() == Code::NotFound => Err(status),
        Err(status) => return Err(status),
    };
    if let Ok(document) = &local
        && !of_cluster(document)
    {
        return Ok(Found { document: document.clone(), of_cluster: false });
    }
    let id = local.as_ref().ok().and_then(|d| d["Id"].as_str()).unwrap_or(r#ref);
    match (control.inspect_network(request(id)).await, local) {
        (Ok(answer), local) => {
            let mut document = cluster::document(answer.into_inner()).map_err(wrong)?;
            if let Ok(local) = local {
                cluster::merge(&mut document, local);
            }
            Ok(Found { document, of_cluster: true })
        }
        // A worker tells what it knows.
        (Err(_), Ok(document)) => Ok(Found { document, of_cluster: true }),
        // Outside of a manager only this host was asked, and it has said that it knows none.
        (Err(status), Err(local)) if status.code() == Code::FailedPrecondition => Err(local),
        (Err(status), Err(_)) => Err(status),
    }
}

/// All of them by name, and why those of the cluster may be missing.
pub async fn all(
    host: &mut HostClient<Channel>,
    control: &mut Control,
) -> Result<(Vec<Value>, Option<Status>), Status> {
    let answer = host.list_networks(v1::ListHostNetworksRequest {}).await?.into_inner();
    let mut documents =
        answer.json.iter().map(|d| serde_json::from_str(d)).collect::<Result<Vec<Value>, _>>().map_err(wrong)?;
    let missing = match control.list_networks(v1::ListNetworksRequest {}).await {
        Ok(answer) => {
            for network in answer.into_inner().networks {
                let answer = v1::InspectNetworkResponse { network: Some(network), ..Default::default() };
                let mut document = cluster::document(answer).map_err(wrong)?;
                if let Some(at) = documents.iter().position(|d| d["Id"] == document["Id"]) {
                    cluster::merge(&mut document, documents.swap_remove(at));
                }
                documents.push(document);
            }
            None
        }
        // Not a manager.
        Err(status) if status.code() == Code::FailedPrecondition => None,
        Err(status) => Some(status),
    };
    documents.sort_by(|a, b| {
        let key = |d: &Value| (d["Name"].as_str().unwrap_or_default().to_owned(), d["Id"].to_string());
        key(a).cmp(&key(b))
    });
    Ok((documents, missing))
}

#[cfg(test)]
mod tests {
    use super::super::{cluster::tests::answer, rm};
    use super::*;
    use crate::commands::fake::{Daemon, Fake};
    use serde_json::json;

    fn bridge() -> Value {
        json!({ "Id": "1", "Name": "br", "Scope": "local", "Driver": "bridge", "Containers": { "w": {} } })
    }

    /// What this host knows of the overlay that `answer` tells.
    fn front() -> Value {
        let id = answer("front", 1).network.unwrap().id;
        json!({ "Id": id, "Name": "front", "Scope": "swarm", "Driver": "overlay", "Containers": { "t1": {} } })
    }

    fn manager(daemon: &mut Daemon) {
        daemon.networks = vec![bridge(), front()];
        daemon.cluster = Some(vec![answer("front", 1), answer("back", 2)]);
    }

    async fn look(fake: &Fake, name: &str) -> Result<Found, Status> {
        let client = fake.client();
        find(&mut client.host().unwrap(), &mut client.control().unwrap(), name).await
    }

    async fn names(fake: &Fake) -> Vec<String> {
        let client = fake.client();
        let (all, missing) = all(&mut client.host().unwrap(), &mut client.control().unwrap()).await.unwrap();
        assert!(missing.is_none());
        all.iter().map(|d| d["Name"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_manager_knows_both_kinds_and_each_once() {
        let fake = Fake::start(manager);
        assert_eq!(names(&fake).await, ["back", "br", "front"]);
        assert!(!look(&fake, "br").await.unwrap().of_cluster);
        let front = look(&fake, "front").await.unwrap();
        assert!(front.of_cluster && front.document["Containers"]["t1"].is_object());
        assert_eq!(front.document["Services"]["web"]["VIPs"], json!(["10.0.2.5", "fd00:2::5"]));
        assert_eq!(look(&fake, "back").await.unwrap().document["Containers"], json!({}));
        let nowhere = look(&fake, "nowhere").await.err().unwrap();
        assert_eq!((nowhere.code(), nowhere.message()), (Code::NotFound, "no network is called \"nowhere\""));
    }

    #[tokio::test]
    async fn a_worker_knows_what_it_takes_part_in() {
        let fake = Fake::start(|daemon| daemon.networks = vec![bridge(), front()]);
        assert_eq!(names(&fake).await, ["br", "front"]);
        assert!(look(&fake, "front").await.unwrap().of_cluster);
        assert_eq!(look(&fake, "back").await.err().unwrap().code(), Code::NotFound);
    }

    #[tokio::test]
    async fn who_decides_over_a_network_removes_it() {
        let fake = Fake::start(manager);
        let client = fake.client();
        for name in ["br", "front"] {
            let found = look(&fake, name).await.unwrap();
            rm::remove(&mut client.host().unwrap(), &mut client.control().unwrap(), &found).await.unwrap();
        }
        let front = front()["Id"].as_str().unwrap().to_owned();
        assert_eq!(fake.state().asked, ["host removes 1".to_owned(), format!("cluster removes {front}")]);
    }
}
