//! What managers know of a network of the cluster, as a document in the shape of docker's API.

use heddle_model::{
    net::{DualAddr, DualSubnet, Pool},
    network::Network,
    task::TaskState,
};
use heddle_proto::v1;
use serde_json::{Map, Value, json};

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the daemon's answer has no network")]
    NoNetwork,
    #[error("the daemon's answer cannot be read")]
    Convert(#[from] heddle_proto::convert::ConvertError),
}

/// What addresses come from.
fn ipam(pools: Vec<v1::Pool>) -> Result<Value, DocumentError> {
    let config = |pool: v1::Pool| {
        let pool = Pool::try_from(pool)?;
        let mut config = json!({ "Subnet": pool.subnet, "Gateway": pool.gateway() });
        if let Some(range) = pool.range {
            config["IPRange"] = range.to_string().into();
        }
        if !pool.aux.is_empty() {
            config["AuxiliaryAddresses"] = json!(pool.aux);
        }
        Ok(config)
    };
    let configs = pools.into_iter().map(config).collect::<Result<Vec<_>, DocumentError>>()?;
    Ok(json!({ "Driver": "default", "Options": null, "Config": configs }))
}

fn both(addr: Option<v1::DualAddr>) -> Result<Option<DualAddr>, DocumentError> {
    Ok(addr.map(DualAddr::try_from).transpose()?)
}

fn task(endpoint: v1::NetworkEndpoint, peers: &[v1::NetworkPeer]) -> Result<Value, DocumentError> {
    let state = TaskState::try_from(endpoint.state()).ok();
    let addr = both(endpoint.addr)?;
    let host_ip = peers.iter().find(|p| p.node == endpoint.node).map(|p| &p.data_path_addr);
    Ok(json!({
        "Name": endpoint.name,
        "EndpointID": endpoint.task,
        "EndpointIP": addr.map(|a| a.v4),
        "Info": { "Host IP": host_ip },
        // docker has no words for these.
        "EndpointIPs": addr.map(|a| a.addrs()),
        "MacAddress": endpoint.mac,
        "NodeID": endpoint.node,
        "State": state,
    }))
}

fn service(service: v1::NetworkService, peers: &[v1::NetworkPeer]) -> Result<Value, DocumentError> {
    let port = |p: &v1::PortConfig| {
        let protocol = if p.protocol() == v1::Protocol::Udp { "udp" } else { "tcp" };
        format!("Target: {}/{protocol}, Publish: {}", p.target, p.published)
    };
    let addr = both(service.virtual_ip)?;
    Ok(json!({
        "VIP": addr.map_or_else(String::new, |a| a.v4.to_string()),
        "Ports": service.ports.iter().map(port).collect::<Vec<_>>(),
        "Tasks": service.endpoints.into_iter().map(|e| task(e, peers)).collect::<Result<Vec<_>, _>>()?,
        "VIPs": addr.map(|a| a.addrs()),
        "ServiceID": service.id,
    }))
}

fn peer(peer: v1::NetworkPeer) -> Result<Value, DocumentError> {
    let mut value = json!({ "Name": peer.hostname, "IP": peer.data_path_addr, "NodeID": peer.node });
    if let Some(leg) = peer.ingress {
        let addrs = both(leg.addr)?.map(|a| a.addrs());
        value["Ingress"] = json!({ "Index": leg.index, "IPs": addrs, "MacAddress": leg.mac });
    }
    Ok(value)
}

/// `Containers`, and each service's `LocalLBIndex`, are what one host knows: its own document has them.
pub fn document(answer: v1::InspectNetworkResponse) -> Result<Value, DocumentError> {
    let network = Network::try_from(answer.network.ok_or(DocumentError::NoNetwork)?)?;
    let given = network.allocation.as_ref();
    let mut options = network.spec.options.clone();
    options.extend(network.spec.mtu.map(|m| ("com.docker.network.driver.mtu".to_owned(), m.0.to_string())));
    options.extend(given.map(|a| ("com.docker.network.driver.overlay.vxlanid_list".to_owned(), a.vni.to_string())));
    let mut services = Map::new();
    for one in answer.services {
        services.insert(one.name.clone(), service(one, &answer.peers)?);
    }
    let connections = answer.connections.into_iter().map(|c| task(c, &answer.peers)).collect::<Result<Vec<_>, _>>()?;
    let mut document = json!({
        "Name": network.spec.annotations.name,
        "Id": network.id,
        "Created": crate::commands::moment::show(network.meta.created_at.0),
        "Scope": "swarm",
        "Driver": network.spec.driver,
        "EnableIPv4": true,
        "EnableIPv6": true,
        "IPAM": ipam(answer.pools)?,
        "Internal": network.spec.internal,
        "Attachable": network.spec.attachable,
        "Ingress": network.spec.ingress,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": options,
        "Labels": network.spec.annotations.labels,
        "Peers": answer.peers.into_iter().map(peer).collect::<Result<Vec<_>, _>>()?,
        "Services": services,
        // Workloads of any host that joined by themselves: docker shows those of one host alone.
        "Connections": connections,
        // docker has no word for where virtual addresses come from.
        "ServiceSubnets": given.map(|a| DualSubnet::nets(&a.service_subnet)),
    });
    // A list alone does not tell it.
    if answer.mtu > 0 {
        document["EffectiveMTU"] = answer.mtu.into();
    }
    Ok(document)
}

/// The cluster's view with what only the host knows beside it.
pub fn merge(cluster: &mut Value, host: Value) {
    match (cluster, host) {
        (Value::Object(cluster), Value::Object(host)) => {
            for (key, value) in host {
                match cluster.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => drop(cluster.insert(key, value)),
                }
            }
        }
        (known @ Value::Null, value) => *known = value,
        _ => {}
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use expect_test::expect;
    use heddle_model::{
        Annotations, Meta, NetworkId, Timestamp, Version,
        net::Vni,
        network::{Driver, NetworkAllocation, NetworkSpec},
    };

    pub fn network(name: &str, number: u8) -> Network {
        let subnet = |v4: &str, v6: &str| DualSubnet { v4: v4.parse().unwrap(), v6: v6.parse().unwrap() };
        Network {
            id: NetworkId::from_random([number; 16]),
            meta: Meta { version: Version(5), created_at: Timestamp(1_000), updated_at: Timestamp(1_000) },
            spec: NetworkSpec {
                annotations: Annotations { name: name.to_owned(), ..Annotations::default() },
                driver: Driver::Overlay,
                ..NetworkSpec::default()
            },
            allocation: Some(NetworkAllocation {
                vni: Vni::try_from(4097).unwrap(),
                subnet: subnet("10.0.1.0/24", "fd00:1::/64"),
                service_subnet: subnet("10.0.2.0/24", "fd00:2::/64"),
            }),
        }
    }

    fn addr(n: u8) -> Option<v1::DualAddr> {
        Some(v1::DualAddr { v4: format!("10.0.1.{n}"), v6: format!("fd00:1::{n}") })
    }

    pub fn answer(name: &str, number: u8) -> v1::InspectNetworkResponse {
        let endpoint = v1::NetworkEndpoint {
            task: "t1".into(),
            name: "web.1.t1".into(),
            node: "n1".into(),
            addr: addr(2),
            mac: "02:42:00:00:00:02".into(),
            state: v1::TaskState::Running.into(),
            aliases: vec![],
        };
        let port = v1::PortConfig { protocol: v1::Protocol::Tcp.into(), target: 80, published: 8080, mode: 1 };
        v1::InspectNetworkResponse {
            network: Some(network(name, number).into()),
            mtu: 1450,
            peers: vec![v1::NetworkPeer {
                node: "n1".into(),
                hostname: "node1".into(),
                data_path_addr: "192.0.2.1".into(),
                ingress: None,
            }],
            services: vec![v1::NetworkService {
                id: "s1".into(),
                name: "web".into(),
                virtual_ip: Some(v1::DualAddr { v4: "10.0.2.5".into(), v6: "fd00:2::5".into() }),
                ports: vec![port],
                endpoints: vec![endpoint],
            }],
            connections: vec![],
            pools: network(name, number).pools().into_iter().map(Into::into).collect(),
        }
    }

    #[test]
    fn a_docker_user_finds_everything_under_dockers_names() {
        let mut document = document(answer("front", 1)).unwrap();
        merge(
            &mut document,
            json!({
                "Name": "other", "Containers": { "t1": { "Name": "web.1.t1" } },
                "Services": { "web": { "LocalLBIndex": 7, "VIP": "" } },
            }),
        );
        expect![[r#"
            {
              "Attachable": false,
              "ConfigFrom": {
                "Network": ""
              },
              "ConfigOnly": false,
              "Connections": [],
              "Containers": {
                "t1": {
                  "Name": "web.1.t1"
                }
              },
              "Created": "1970-01-01T00:00:01Z",
              "Driver": "overlay",
              "EffectiveMTU": 1450,
              "EnableIPv4": true,
              "EnableIPv6": true,
              "IPAM": {
                "Config": [
                  {
                    "Gateway": "10.0.1.1",
                    "Subnet": "10.0.1.0/24"
                  },
                  {
                    "Gateway": "fd00:1::1",
                    "Subnet": "fd00:1::/64"
                  }
                ],
                "Driver": "default",
                "Options": null
              },
              "Id": "0250za67mbtgh1tvq6ktn8q2p",
              "Ingress": false,
              "Internal": false,
              "Labels": {},
              "Name": "front",
              "Options": {
                "com.docker.network.driver.overlay.vxlanid_list": "4097"
              },
              "Peers": [
                {
                  "IP": "192.0.2.1",
                  "Name": "node1",
                  "NodeID": "n1"
                }
              ],
              "Scope": "swarm",
              "ServiceSubnets": [
                "10.0.2.0/24",
                "fd00:2::/64"
              ],
              "Services": {
                "web": {
                  "LocalLBIndex": 7,
                  "Ports": [
                    "Target: 80/tcp, Publish: 8080"
                  ],
                  "ServiceID": "s1",
                  "Tasks": [
                    {
                      "EndpointID": "t1",
                      "EndpointIP": "10.0.1.2",
                      "EndpointIPs": [
                        "10.0.1.2",
                        "fd00:1::2"
                      ],
                      "Info": {
                        "Host IP": "192.0.2.1"
                      },
                      "MacAddress": "02:42:00:00:00:02",
                      "Name": "web.1.t1",
                      "NodeID": "n1",
                      "State": "running"
                    }
                  ],
                  "VIP": "10.0.2.5",
                  "VIPs": [
                    "10.0.2.5",
                    "fd00:2::5"
                  ]
                }
              }
            }"#]]
        .assert_eq(&format!("{document:#}"));
    }
}
