//! IPVS by generic netlink, in any namespace. Services are known by a firewall mark or by address, protocol and port; what is
//! in the kernel is read back whole.

mod message;

pub use message::{Message, changes, delete_service};

use super::genl::Socket;
use crate::dataplane::state::{IpvsKey, IpvsService, Space};
use message::{list, read_destination, read_service};
use std::{collections::BTreeMap, io};

pub struct Ipvs {
    socket: Socket<Message>,
}

impl Ipvs {
    /// None: this kernel has no IPVS.
    pub async fn open(at: &Space) -> io::Result<Option<Self>> {
        Ok(Socket::open(at).await?.map(|socket| Self { socket }))
    }

    pub async fn send(&mut self, message: Message) -> io::Result<()> {
        self.socket.send(message).await
    }

    /// Everything in the namespace: the whole of it is ours.
    pub async fn observe(&mut self) -> io::Result<BTreeMap<IpvsKey, IpvsService>> {
        let mut services = BTreeMap::new();
        for (key, scheduler) in self.socket.dump(list(None)).await?.iter().filter_map(read_service) {
            let v6 = match &key {
                IpvsKey::Mark { v6, .. } => *v6,
                IpvsKey::Addr { addr, .. } => addr.is_ipv6(),
            };
            let found = self.socket.dump(list(Some(&key))).await?;
            let destinations = found.iter().filter_map(|m| read_destination(m, v6)).collect();
            services.insert(key, IpvsService { scheduler, destinations });
        }
        Ok(services)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
