//! Who may call what: every RPC of every service has one row here, and what has none is refused.

use super::{
    Access::{Administrator, Anyone, Local, Manager, Member, Operator},
    Effect::{Changes, Reads},
    Row,
};

type Method = (&'static str, super::Access, super::Effect);

const SERVICES: [(&str, &[Method]); 10] = [
    // Operators: root, on the local socket of a manager; people with a certificate; managers, which pass on what they were asked.
    (
        "heddle.v1.Control",
        &[
            ("ListNodes", Operator, Reads),
            ("GetNode", Operator, Reads),
            ("UpdateNode", Operator, Changes),
            ("RemoveNode", Operator, Changes),
            ("CreateNetwork", Operator, Changes),
            ("ListNetworks", Operator, Reads),
            ("InspectNetwork", Operator, Reads),
            ("RemoveNetwork", Operator, Changes),
            ("CreateService", Operator, Changes),
            ("ListServices", Operator, Reads),
            ("GetService", Operator, Reads),
            ("ScaleService", Operator, Changes),
            ("RemoveService", Operator, Changes),
            ("ListTasks", Operator, Reads),
            ("WatchService", Operator, Reads),
            ("ServiceLogs", Operator, Reads),
            // With `rotate` it changes, too. Whoever has a manager's token has the root's key soon.
            ("GetJoinToken", Administrator, Changes),
            // Whoever has the unlock key reads what a stolen disk has.
            ("UpdateCluster", Administrator, Changes),
            ("GetUnlockKey", Administrator, Changes),
            ("GetCluster", Operator, Reads),
            ("RotateTunnel", Operator, Changes),
            ("UpdateService", Operator, Changes),
            ("RollbackService", Operator, Changes),
            ("GetReplica", Operator, Reads),
            // It changes nothing, but whoever has a backup has the root's key: that is written down.
            ("Backup", Administrator, Changes),
        ],
    ),
    ("heddle.v1.Observe", &[("GetStatus", Operator, Reads), ("WatchEvents", Operator, Reads)]),
    // What a secret holds is told by none of them.
    (
        "heddle.v1.Payloads",
        &[
            ("CreatePayload", Operator, Changes),
            ("ListPayloads", Operator, Reads),
            ("GetPayload", Operator, Reads),
            ("RemovePayload", Operator, Changes),
        ],
    ),
    // With another root, tokens and certificates of users count no more.
    ("heddle.v1.Roots", &[("GetRoots", Operator, Reads), ("RotateRoot", Administrator, Changes)]),
    (
        "heddle.v1.Users",
        &[
            ("AddUser", Administrator, Changes),
            ("ListUsers", Administrator, Reads),
            ("RemoveUser", Administrator, Changes),
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
            ("Leave", Member, Changes),
        ],
    ),
    // Whoever has a join token, or a certificate that has ended: what they show is checked by the service.
    ("heddle.v1.NodeCa", &[("GetRoot", Anyone, Reads), ("Issue", Anyone, Changes), ("Renew", Anyone, Reads)]),
    (
        "heddle.v1.Raft",
        &[
            ("AppendEntries", Manager, Reads),
            ("Vote", Manager, Reads),
            ("PreVote", Manager, Reads),
            ("TransferLeader", Manager, Reads),
            ("InstallSnapshot", Manager, Reads),
            ("Join", Manager, Changes),
            ("Leave", Manager, Changes),
            ("Moved", Manager, Changes),
            // Managers of before a new beginning, whose certificates count no more: the service checks that it is a manager's.
            ("Standing", Anyone, Reads),
        ],
    ),
    // Root of this host.
    (
        "heddle.v1.Local",
        &[
            ("Init", Local, Changes),
            ("Join", Local, Changes),
            ("Leave", Local, Changes),
            ("Info", Local, Reads),
            ("Diagnose", Local, Reads),
            ("ListTunnelPeers", Local, Reads),
            ("ForceNewCluster", Local, Changes),
            ("Restore", Local, Changes),
            ("Unlock", Local, Changes),
        ],
    ),
    (
        "heddle.v1.Host",
        &[
            ("CreateNetwork", Local, Changes),
            ("ListNetworks", Local, Reads),
            ("InspectNetwork", Local, Reads),
            ("RemoveNetwork", Local, Changes),
            ("ConnectNetwork", Local, Changes),
            ("DisconnectNetwork", Local, Changes),
            ("GetNetworkRules", Local, Reads),
            ("RunWorkload", Local, Changes),
            ("ListWorkloads", Local, Reads),
            ("InspectWorkload", Local, Reads),
            ("StartWorkload", Local, Changes),
            ("StopWorkload", Local, Changes),
            ("RemoveWorkload", Local, Changes),
            ("WaitWorkload", Local, Reads),
            ("WorkloadLogs", Local, Reads),
            ("GetExecTarget", Local, Reads),
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
