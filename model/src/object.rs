//! Any stored object, for the store, the watch and generic listings.

use crate::{
    Meta,
    cluster::Cluster,
    connection::Connection,
    network::Network,
    node::Node,
    payload::{Payload, PayloadKind},
    service::Service,
    task::Task,
};
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Cluster,
    Node,
    Network,
    Service,
    Task,
    Connection,
    Secret,
    Config,
}

impl From<PayloadKind> for Kind {
    fn from(kind: PayloadKind) -> Kind {
        match kind {
            PayloadKind::Secret => Kind::Secret,
            PayloadKind::Config => Kind::Config,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Cluster => "cluster",
            Kind::Node => "node",
            Kind::Network => "network",
            Kind::Service => "service",
            Kind::Task => "task",
            Kind::Connection => "connection",
            Kind::Secret => "secret",
            Kind::Config => "config",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    Cluster(Cluster),
    Node(Node),
    Network(Network),
    Service(Service),
    Task(Task),
    Connection(Connection),
    Payload(Payload),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Object::Cluster(_) => Kind::Cluster,
            Object::Node(_) => Kind::Node,
            Object::Network(_) => Kind::Network,
            Object::Service(_) => Kind::Service,
            Object::Task(_) => Kind::Task,
            Object::Connection(_) => Kind::Connection,
            Object::Payload(o) => o.kind.into(),
        }
    }

    pub fn id(&self) -> &str {
        match self {
            Object::Cluster(o) => o.id.as_str(),
            Object::Node(o) => o.id.as_str(),
            Object::Network(o) => o.id.as_str(),
            Object::Service(o) => o.id.as_str(),
            Object::Task(o) => o.id.as_str(),
            Object::Connection(o) => o.id.as_str(),
            Object::Payload(o) => o.id.as_str(),
        }
    }

    /// The name that is unique among its kind; None where names may repeat (nodes: host names) or there are none.
    pub fn unique_name(&self) -> Option<&str> {
        match self {
            Object::Network(o) => Some(&o.spec.annotations.name),
            Object::Service(o) => Some(&o.spec.annotations.name),
            Object::Payload(o) => Some(&o.annotations.name),
            Object::Cluster(_) | Object::Node(_) | Object::Task(_) | Object::Connection(_) => None,
        }
    }

    pub fn meta(&self) -> &Meta {
        match self {
            Object::Cluster(o) => &o.meta,
            Object::Node(o) => &o.meta,
            Object::Network(o) => &o.meta,
            Object::Service(o) => &o.meta,
            Object::Task(o) => &o.meta,
            Object::Connection(o) => &o.meta,
            Object::Payload(o) => &o.meta,
        }
    }

    pub fn meta_mut(&mut self) -> &mut Meta {
        match self {
            Object::Cluster(o) => &mut o.meta,
            Object::Node(o) => &mut o.meta,
            Object::Network(o) => &mut o.meta,
            Object::Service(o) => &mut o.meta,
            Object::Task(o) => &mut o.meta,
            Object::Connection(o) => &mut o.meta,
            Object::Payload(o) => &mut o.meta,
        }
    }
}

macro_rules! object_from {
    ($($name:ident),*) => {$(
        impl From<$name> for Object {
            fn from(o: $name) -> Object {
                Object::$name(o)
            }
        }
    )*};
}
object_from!(Cluster, Node, Network, Service, Task, Connection, Payload);
