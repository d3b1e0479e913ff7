//! Who may call what: every RPC of every service has one row here, and what has none is refused.

use super::{
    Access::{Administrator, Anyone, Local, Manager, Member, Operator},
    Effect::{Changes, Reads},
    Row,
    object::about,
};
use heddle_proto::v1;

type Method = (&'static str, super::Access, super::Effect);

const SERVICES: [(&str, &[Method]); 10] = [
    // Operators: root, on the local socket of a manager; people with a certificate; managers, which pass on what they were asked.
    (
        "heddle.v1.Control",
        &[
            ("ListNodes", Operator, Reads),
            ("GetNode", Operator, Reads),
            ("UpdateNode", Operator, Changes(about::<v1::UpdateNodeRequest>)),
            ("RemoveNode", Operator, Changes(about::<v1::RemoveNodeRequest>)),
            ("CreateNetwork", Operator, Changes(about::<v1::CreateNetworkRequest>)),
            ("ListNetworks", Operator, Reads),
            ("InspectNetwork", Operator, Reads),
            ("RemoveNetwork", Operator, Changes(about::<v1::RefRequest>)),
            ("CreateService", Operator, Changes(about::<v1::CreateServiceRequest>)),
            ("ListServices", Operator, Reads),
            ("GetService", Operator, Reads),
            ("ScaleService", Operator, Changes(about::<v1::ScaleServiceRequest>)),
            ("RemoveService", Operator, Changes(about::<v1::RefRequest>)),
            ("ListTasks", Operator, Reads),
            ("WatchService", Operator, Reads),
            ("ServiceLogs", Operator, Reads),
            // With `rotate` it changes, too. Whoever has a manager's token has the root's key soon.
            ("GetJoinToken", Administrator, Changes(about::<v1::GetJoinTokenRequest>)),
            // Whoever has the unlock key reads what a stolen disk has.
            ("UpdateCluster", Administrator, Changes(about::<v1::UpdateClusterRequest>)),
            ("GetUnlockKey", Administrator, Changes(about::<v1::GetUnlockKeyRequest>)),
            ("GetCluster", Operator, Reads),
            ("RotateTunnel", Operator, Changes(about::<v1::RotateTunnelRequest>)),
            ("UpdateService", Operator, Changes(about::<v1::UpdateServiceRequest>)),
            ("RebalanceService", Operator, Changes(about::<v1::RebalanceServiceRequest>)),
            ("ExplainService", Operator, Reads),
            ("PlanService", Operator, Reads),
            ("RollbackService", Operator, Changes(about::<v1::RefRequest>)),
            ("GetReplica", Operator, Reads),
            // It changes nothing, but whoever has a backup has the root's key: that is written down.
            ("Backup", Administrator, Changes(about::<v1::BackupRequest>)),
        ],
    ),
    ("heddle.v1.Observe", &[("GetStatus", Operator, Reads), ("WatchEvents", Operator, Reads)]),
    // What a secret holds is told by none of them.
    (
        "heddle.v1.Payloads",
        &[
            ("CreatePayload", Operator, Changes(about::<v1::CreatePayloadRequest>)),
            ("ListPayloads", Operator, Reads),
            ("GetPayload", Operator, Reads),
            ("RemovePayload", Operator, Changes(about::<v1::PayloadRequest>)),
        ],
    ),
    // With another root, tokens and certificates of users count no more.
    (
        "heddle.v1.Roots",
        &[("GetRoots", Operator, Reads), ("RotateRoot", Administrator, Changes(about::<v1::RotateRootRequest>))],
    ),
    (
        "heddle.v1.Users",
        &[
            ("AddUser", Administrator, Changes(about::<v1::AddUserRequest>)),
            ("ListUsers", Administrator, Reads),
            ("RemoveUser", Administrator, Changes(about::<v1::RemoveUserRequest>)),
        ],
    ),
    // Agents. Each speaks for the node that its certificate names, and is told what concerns that node.
    (
        "heddle.v1.Dispatcher",
        &[
            ("Session", Member, Reads),
            ("PublishLogs", Member, Reads),
            ("Attach", Member, Reads),
            ("Detach", Member, Reads),
            ("Leave", Member, Changes(about::<v1::LeaveNodeRequest>)),
        ],
    ),
    // Whoever has a join token, or a certificate that has ended: what they show is checked by the service.
    (
        "heddle.v1.NodeCa",
        &[("GetRoot", Anyone, Reads), ("Issue", Anyone, Changes(about::<v1::IssueRequest>)), ("Renew", Anyone, Reads)],
    ),
    (
        "heddle.v1.Raft",
        &[
            ("AppendEntries", Manager, Reads),
            ("Vote", Manager, Reads),
            ("PreVote", Manager, Reads),
            ("TransferLeader", Manager, Reads),
            ("InstallSnapshot", Manager, Reads),
            ("Join", Manager, Changes(about::<v1::RaftJoinRequest>)),
            ("Leave", Manager, Changes(about::<v1::RaftLeaveRequest>)),
            ("Moved", Manager, Changes(about::<v1::RaftMovedRequest>)),
            // Managers of before a new beginning, whose certificates count no more: the service checks that it is a manager's.
            ("Standing", Anyone, Reads),
        ],
    ),
    // Root of this host.
    (
        "heddle.v1.Local",
        &[
            ("Init", Local, Changes(about::<v1::InitRequest>)),
            ("Join", Local, Changes(about::<v1::JoinRequest>)),
            ("Leave", Local, Changes(about::<v1::LeaveRequest>)),
            ("Info", Local, Reads),
            ("Diagnose", Local, Reads),
            ("ListTunnelPeers", Local, Reads),
            ("ForceNewCluster", Local, Changes(about::<v1::ForceNewClusterRequest>)),
            ("Restore", Local, Changes(about::<v1::RestoreChunk>)),
            ("Unlock", Local, Changes(about::<v1::UnlockRequest>)),
        ],
    ),
    (
        "heddle.v1.Host",
        &[
            ("CreateNetwork", Local, Changes(about::<v1::CreateNetworkRequest>)),
            ("ListNetworks", Local, Reads),
            ("InspectNetwork", Local, Reads),
            ("RemoveNetwork", Local, Changes(about::<v1::RefRequest>)),
            ("ConnectNetwork", Local, Changes(about::<v1::ConnectNetworkRequest>)),
            ("DisconnectNetwork", Local, Changes(about::<v1::DisconnectNetworkRequest>)),
            ("GetNetworkRules", Local, Reads),
            ("RunWorkload", Local, Changes(about::<v1::RunWorkloadRequest>)),
            ("ListWorkloads", Local, Reads),
            ("InspectWorkload", Local, Reads),
            ("StartWorkload", Local, Changes(about::<v1::RefRequest>)),
            ("StopWorkload", Local, Changes(about::<v1::StopWorkloadRequest>)),
            ("RemoveWorkload", Local, Changes(about::<v1::RemoveWorkloadRequest>)),
            ("WaitWorkload", Local, Reads),
            ("WorkloadLogs", Local, Reads),
            ("ResolveImage", Local, Reads),
            ("ListImages", Local, Reads),
            ("InspectImage", Local, Reads),
            ("PullImage", Local, Changes(about::<v1::PullImageRequest>)),
            ("RemoveImage", Local, Changes(about::<v1::RemoveImageRequest>)),
            ("PruneImages", Local, Changes(about::<v1::PruneImagesRequest>)),
            ("GetExecTarget", Local, Reads),
            ("CreateVolume", Local, Changes(about::<v1::CreateVolumeRequest>)),
            ("ListVolumes", Local, Reads),
            ("InspectVolume", Local, Reads),
            ("RemoveVolume", Local, Changes(about::<v1::RefRequest>)),
            ("PruneVolumes", Local, Changes(about::<v1::PruneVolumesRequest>)),
        ],
    ),
];

/// All rows, in order of the table.
pub fn rows() -> impl Iterator<Item = Row> {
    let of = |(service, methods): (&'static str, &'static [Method])| {
        methods.iter().map(move |&(method, access, effect)| Row { service, method, access, effect })
    };
    SERVICES.into_iter().flat_map(of)
}

/// The row of a path such as `/heddle.v1.Control/ListNodes`.
pub fn row(path: &str) -> Option<Row> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    rows().find(|row| row.service == service && row.method == method)
}
