//! IPVS by generic netlink, in any namespace. Services are known by a firewall mark or by address, protocol and port; what is
//! in the kernel is read back whole.

pub(crate) mod message;
pub mod probe;

pub use message::Message;

use super::genl::Socket;
use crate::dataplane::{
    ipvs::{IpvsDestination, IpvsKey, IpvsService, IpvsTimeouts},
    state::Space,
    step::Step,
};
use message::{Destination, get_timeouts, list, read_destination, read_service, read_timeouts};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
};

/// Speaks to the IPVS of one namespace.
pub struct Ipvs {
    socket: Socket<Message>,
}

/// Whether IPVS is in the kernel now. Asking for its family would load it.
pub fn is_loaded() -> bool {
    Path::new("/proc/net/ip_vs").exists()
}

/// The one request that a step comes to. None: it is not about IPVS.
pub fn request(step: &Step) -> Option<Message> {
    Some(match step {
        Step::SetIpvsService { key, scheduler, new, .. } => message::set_service(key, *scheduler, *new),
        Step::RemoveIpvsService { key, .. } => message::delete_service(key),
        Step::SetIpvsDestination { key, at, to, new, .. } => message::set_destination(key, *at, *to, *new),
        Step::RemoveIpvsDestination { key, at, .. } => message::delete_destination(key, *at),
        Step::SetIpvsTimeouts { timeouts, .. } => message::set_timeouts(timeouts.unwrap_or(IpvsTimeouts::KERNEL)),
        _ => return None,
    })
}

/// Something is there already, or a destination or a service is not.
pub const KNOWN: [i32; 3] = [nix::libc::EEXIST, nix::libc::ENOENT, nix::libc::ESRCH];

/// What to ask for when what a step makes is there, or what it changes is not. None: that is all the step wanted.
pub fn instead(step: &Step) -> Option<Message> {
    let mut step = step.clone();
    match &mut step {
        Step::SetIpvsService { new, .. } | Step::SetIpvsDestination { new, .. } => *new = !*new,
        _ => return None,
    }
    request(&step)
}

impl Ipvs {
    /// None: this kernel has no IPVS. One that has it as a module loads it.
    pub async fn open(at: &Space) -> io::Result<Option<Self>> {
        Ok(Socket::open(at).await?.map(|socket| Self { socket }))
    }

    /// In a namespace that ends with the value.
    async fn apart() -> io::Result<Option<Self>> {
        Ok(Socket::apart().await?.map(|socket| Self { socket }))
    }

    pub async fn send(&mut self, message: Message) -> io::Result<()> {
        self.socket.send(message).await
    }

    /// Those of the namespace. None: they are the kernel's own.
    pub async fn timeouts(&mut self) -> io::Result<Option<IpvsTimeouts>> {
        Ok(self.socket.ask(get_timeouts()).await?.iter().find_map(read_timeouts))
    }

    /// Everything in the namespace: the whole of it is ours. One question for the services, and one for each.
    /// Also, which destinations drain and have no established connection.
    pub async fn observe(
        &mut self,
    ) -> io::Result<(BTreeMap<IpvsKey, IpvsService>, BTreeSet<(IpvsKey, (IpAddr, u16))>)> {
        let (mut services, mut idle) = (BTreeMap::new(), BTreeSet::new());
        for (key, scheduler) in self.socket.dump(list(None)).await?.iter().filter_map(read_service) {
            let v6 = key.is_ipv6();
            let found = self.socket.dump(list(Some(&key))).await?;
            let found: Vec<_> = found.iter().filter_map(|m| read_destination(m, v6)).collect();
            let none = |found: &&Destination| found.to == IpvsDestination::Weight(0) && found.connections == 0;
            idle.extend(found.iter().filter(none).map(|found| (key.clone(), found.at)));
            let destinations = found.into_iter().map(|found| (found.at, found.to)).collect();
            services.insert(key, IpvsService { scheduler, destinations });
        }
        Ok((services, idle))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::skip, *};

    /// On a kernel with IPVS a service is made and found; on one without, that is said.
    #[tokio::test]
    async fn the_kernel_says_whether_it_has_ipvs() {
        let there = std::path::Path::new("/proc/net/ip_vs").exists();
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("REQUIRE").is_none(), "REQUIRE is set and this needs root");
            println!("SKIPPED: root");
            return;
        }
        assert_eq!(Ipvs::open(&Space::Host).await.unwrap().is_some(), there);
        skip("ipvs", there);
    }
}
