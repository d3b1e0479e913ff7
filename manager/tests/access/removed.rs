//! A manager that was cast out keeps its certificate, which counts nowhere: not at the leader, not at followers that know,
//! and not through followers that do not know yet.

use crate::stage::{Stage, call};
use heddle_manager::store::Mutation;
use heddle_model::{
    Kind, NodeId,
    cluster::{Cluster, Role},
};
use heddle_proto::v1::{self, control_client::ControlClient, dispatcher_client::DispatcherClient};
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread")]
async fn its_certificate_counts_no_more() {
    let stage = Stage::set().await;
    let manager = stage.joined(Role::Manager, 3).await;
    let channel = stage.dial(&manager);
    assert!(call(&channel, "/heddle.v1.Control/GetCluster").await.is_ok());
    let mut gone = DispatcherClient::new(channel.clone());
    gone.leave(v1::LeaveNodeRequest {}).await.unwrap();
    let id = manager.identity().node;
    let known: Cluster = (**stage.manager.store.snapshot().cluster.as_ref().unwrap()).clone();
    assert!(known.removed.contains_key(&id), "followers refuse it, too");
    for path in access_of_managers() {
        let said = call(&channel, &path).await.unwrap_err();
        assert_eq!(
            (said.code(), said.message().contains("not in the cluster any more")),
            (Code::NotFound, true),
            "{path}"
        );
    }
}

/// Managers that were lost while the cluster began anew have to hear of it, though their certificates count no more.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_a_manager_is_told_how_often_the_cluster_began() {
    let stage = Stage::set().await;
    let [unknown, worker] =
        [(Role::Manager, 5), (Role::Worker, 6)].map(|(role, n)| stage.certificate(&NodeId::from_random([n; 16]), role));
    let standing = "/heddle.v1.Raft/Standing";
    assert!(call(&stage.dial(&unknown), "/heddle.v1.Raft/Moved").await.is_err());
    assert!(call(&stage.dial(&unknown), standing).await.is_ok());
    for other in [stage.dial(&worker), stage.dial_bare()] {
        assert_eq!(call(&other, standing).await.unwrap_err().code(), Code::PermissionDenied);
    }
}

/// All that a manager may call, save what anyone may.
fn access_of_managers() -> impl Iterator<Item = String> {
    use heddle_plumbing::access::{Access, rows};
    let managers = rows()
        .filter(|r| matches!(r.access, Access::Member | Access::Manager | Access::Operator | Access::Administrator));
    managers.map(|r| format!("/{}/{}", r.service, r.method))
}

/// A follower that lags passes on what a removed manager asks, and says for whom.
#[tokio::test(flavor = "multi_thread")]
async fn no_follower_lends_it_its_own_certificate() {
    let stage = Stage::set().await;
    let (follower, removed) = (stage.joined(Role::Manager, 3).await, stage.joined(Role::Manager, 4).await);
    let id = removed.identity().node;
    let request = || {
        let mut request = Request::new(v1::GetClusterRequest {});
        request.metadata_mut().insert("heddle-on-behalf-of", format!("manager {id}").parse().unwrap());
        request
    };
    let mut leader = ControlClient::new(stage.dial(&follower));
    assert!(leader.get_cluster(request()).await.is_ok());
    let gone = Mutation::Remove { kind: Kind::Node, id: id.to_string(), version: None };
    stage.manager.store.write(vec![gone]).await.unwrap();
    assert_eq!(leader.get_cluster(request()).await.unwrap_err().code(), Code::NotFound);
    assert!(leader.get_cluster(v1::GetClusterRequest {}).await.is_ok(), "the follower itself is still heard");
}
