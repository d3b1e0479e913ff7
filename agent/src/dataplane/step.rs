//! One change to the kernel. Steps carry all that is needed; applying one makes no choice.

use super::{
    firewall::Place,
    ipvs::{IpvsDestination, IpvsKey, IpvsTimeouts, Scheduler},
    state::{FdbKey, FdbTarget, Link, PolicyRule, PortFlags, Route, Space, Table, TableId},
    wireguard::TunnelChange,
};
use heddle_model::net::{IfName, Mac, Mtu};
use ipnet::IpNet;
use std::net::IpAddr;

/// Each is idempotent where the kernel allows it: what is already so is success, and so is removing what is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A new namespace, its `lo` up.
    AddSpace(String),
    /// Removes the namespace and all that is in it. Links that others may wait for are removed by steps of their own before.
    RemoveSpace(String),
    /// Makes the link with all properties given: MAC, MTU, master, port flags, and up last. For a veth, makes both ends; the
    /// other end is left down and as the kernel made it, its own properties follow in steps of its own.
    AddLink {
        space: Space,
        name: IfName,
        link: Link,
    },
    RemoveLink {
        space: Space,
        name: IfName,
    },
    SetMac {
        space: Space,
        name: IfName,
        mac: Mac,
    },
    SetMtu {
        space: Space,
        name: IfName,
        mtu: Mtu,
    },
    SetUp {
        space: Space,
        name: IfName,
        up: bool,
    },
    SetMaster {
        space: Space,
        name: IfName,
        master: Option<IfName>,
    },
    SetPort {
        space: Space,
        name: IfName,
        port: PortFlags,
    },
    /// Changes what a WireGuard link knows, in one request.
    SetTunnel {
        space: Space,
        name: IfName,
        change: TunnelChange,
    },
    /// Without duplicate address detection (IFA_F_NODAD).
    AddAddress {
        space: Space,
        dev: IfName,
        addr: IpNet,
    },
    RemoveAddress {
        space: Space,
        dev: IfName,
        addr: IpNet,
    },
    /// Replaces a route with the same destination and table.
    AddRoute {
        space: Space,
        route: Route,
    },
    RemoveRoute {
        space: Space,
        route: Route,
    },
    AddRule {
        space: Space,
        rule: PolicyRule,
    },
    RemoveRule {
        space: Space,
        rule: PolicyRule,
    },
    /// Adds or replaces in one operation.
    SetNeighbour {
        space: Space,
        dev: IfName,
        addr: IpAddr,
        mac: Mac,
    },
    RemoveNeighbour {
        space: Space,
        dev: IfName,
        addr: IpAddr,
    },
    /// Adds or replaces in one operation: an endpoint that moves is never without an entry.
    SetFdb {
        space: Space,
        key: FdbKey,
        target: FdbTarget,
    },
    RemoveFdb {
        space: Space,
        key: FdbKey,
    },
    /// Makes the table as given in one transaction. `script` is what nft is fed: the whole table, or only what changed when
    /// what was there is known.
    SetTable {
        space: Space,
        id: TableId,
        table: Table,
        script: String,
    },
    RemoveTable {
        space: Space,
        id: TableId,
    },
    /// Makes a service without destinations, or changes one that is there.
    SetIpvsService {
        space: Space,
        key: IpvsKey,
        scheduler: Scheduler,
        new: bool,
    },
    /// With all its destinations.
    RemoveIpvsService {
        space: Space,
        key: IpvsKey,
    },
    SetIpvsDestination {
        space: Space,
        key: IpvsKey,
        at: (IpAddr, u16),
        to: IpvsDestination,
        new: bool,
    },
    RemoveIpvsDestination {
        space: Space,
        key: IpvsKey,
        at: (IpAddr, u16),
    },
    SetIpvsTimeouts {
        space: Space,
        timeouts: Option<IpvsTimeouts>,
    },
    /// Puts our rule into a foreign chain, as rule number `at`. A refusal holds nothing else up: the next look tries again.
    AddPass {
        space: Space,
        place: Place,
        at: u32,
    },
    /// Takes away every rule of ours in that chain.
    RemovePass {
        space: Space,
        place: Place,
    },
    SetSysctl {
        space: Space,
        key: String,
        value: String,
    },
}
