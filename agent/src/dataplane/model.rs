//! What a step does to the kernel's objects, as a function on values: how the reconciler knows what is there between two
//! looks, and what the fake kernel is made of.

use super::{
    diff::forget_link,
    ipvs::{IpvsKey, IpvsService},
    names, own,
    state::{KernelState, Link, LinkKind, PortFlags, Space, SpaceState},
    step::Step,
    wireguard::Tunnel,
};
use heddle_model::net::IfName;

/// Why the kernel would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Exists,
    NotFound,
}

impl KernelState {
    fn space(&mut self, space: &Space) -> Result<&mut SpaceState, Refused> {
        self.spaces.get_mut(space).ok_or(Refused::NotFound)
    }

    fn link(&mut self, space: &Space, name: &IfName) -> Result<&mut Link, Refused> {
        self.space(space)?.links.get_mut(name).ok_or(Refused::NotFound)
    }

    fn ipvs(&mut self, space: &Space, key: &IpvsKey) -> Result<&mut IpvsService, Refused> {
        self.space(space)?.ipvs.get_mut(key).ok_or(Refused::NotFound)
    }

    /// The state after the step.
    pub fn step(&mut self, step: &Step) -> Result<(), Refused> {
        match step {
            Step::AddSpace(name) => drop(self.spaces.entry(Space::Named(name.clone())).or_default()),
            Step::RemoveSpace(name) => {
                let space = Space::Named(name.clone());
                let links: Vec<_> = self.spaces.get(&space).iter().flat_map(|s| s.links.keys().cloned()).collect();
                for link in &links {
                    forget_link(self, &space, link);
                }
                self.spaces.remove(&space);
                self.forget_sockets(&space);
            }
            Step::AddLink { space, name, link } => self.add_link(space, name, link)?,
            Step::RemoveLink { space, name } => {
                forget_link(self, space, name);
            }
            Step::SetMac { space, name, mac } => self.link(space, name)?.mac = Some(*mac),
            Step::SetMtu { space, name, mtu } => self.link(space, name)?.mtu = *mtu,
            Step::SetUp { space, name, up } => {
                self.link(space, name)?.up = *up;
                if !up {
                    self.space(space)?.routes.retain(|r| r.dev != *name);
                }
            }
            Step::SetMaster { space, name, master } => {
                let link = self.link(space, name)?;
                link.master.clone_from(master);
                link.port = PortFlags::default();
            }
            Step::SetPort { space, name, port } => self.link(space, name)?.port = *port,
            Step::SetTunnel { space, name, change } => {
                self.link(space, name)?;
                let tunnels = &mut self.space(space)?.tunnels;
                let tunnel = Tunnel::changed(tunnels.get(name), change).ok_or(Refused::NotFound)?;
                tunnels.insert(name.clone(), tunnel);
            }
            Step::AddAddress { space, dev, addr } => {
                self.link(space, dev)?;
                self.space(space)?.addresses.insert((dev.clone(), *addr));
            }
            Step::RemoveAddress { space, dev, addr } => {
                self.space(space)?.addresses.remove(&(dev.clone(), *addr));
            }
            Step::AddRoute { space, route } => {
                if route.dev != names::loopback() {
                    self.link(space, &route.dev)?;
                }
                let routes = &mut self.space(space)?.routes;
                routes.retain(|r| (r.dst, r.table) != (route.dst, route.table));
                routes.insert(route.clone());
            }
            Step::RemoveRoute { space, route } => {
                self.space(space)?.routes.remove(route);
            }
            Step::AddRule { space, rule } => {
                self.space(space)?.rules.insert(rule.clone());
            }
            Step::RemoveRule { space, rule } => {
                self.space(space)?.rules.remove(rule);
            }
            Step::SetNeighbour { space, dev, addr, mac } => {
                self.link(space, dev)?;
                self.space(space)?.neighbours.insert((dev.clone(), *addr), *mac);
            }
            Step::RemoveNeighbour { space, dev, addr } => {
                self.space(space)?.neighbours.remove(&(dev.clone(), *addr));
            }
            Step::SetFdb { space, key, target } => {
                self.link(space, &key.dev)?;
                self.space(space)?.fdb.insert(key.clone(), *target);
            }
            Step::RemoveFdb { space, key } => {
                self.space(space)?.fdb.remove(key);
            }
            Step::SetTable { space, id, table, .. } => {
                self.space(space)?.tables.insert(id.clone(), table.clone());
            }
            Step::RemoveTable { space, id } => {
                self.space(space)?.tables.remove(id);
            }
            Step::SetIpvsService { space, key, scheduler, .. } => {
                let plain = || IpvsService { scheduler: *scheduler, destinations: Default::default() };
                self.space(space)?.ipvs.entry(key.clone()).or_insert_with(plain).scheduler = *scheduler;
            }
            Step::RemoveIpvsService { space, key } => {
                let space = self.space(space)?;
                space.ipvs.remove(key);
                space.ipvs_idle.retain(|(k, _)| k != key);
            }
            Step::SetIpvsDestination { space, key, at, to, .. } => {
                self.ipvs(space, key)?.destinations.insert(*at, *to);
                self.space(space)?.ipvs_idle.remove(&(key.clone(), *at));
            }
            Step::RemoveIpvsDestination { space, key, at } => {
                self.ipvs(space, key)?.destinations.remove(at);
                self.space(space)?.ipvs_idle.remove(&(key.clone(), *at));
            }
            Step::SetIpvsTimeouts { space, timeouts } => self.space(space)?.ipvs_timeouts = *timeouts,
            Step::AddPass { space, place, .. } => {
                self.space(space)?.passes.insert(place.clone());
            }
            Step::RemovePass { space, place } => {
                self.space(space)?.passes.remove(place);
            }
            Step::SetSysctl { space, key, value } => {
                self.space(space)?.sysctls.insert(key.clone(), value.clone());
            }
        }
        Ok(())
    }

    /// A VXLAN goes with the space that its socket is in, wherever it is itself.
    fn forget_sockets(&mut self, gone: &Space) {
        let there = |l: &Link| matches!(&l.kind, LinkKind::Vxlan(v) if v.socket.as_ref() == Some(gone));
        let links: Vec<_> = self
            .spaces
            .iter()
            .flat_map(|(s, o)| o.links.iter().filter(|(_, l)| there(l)).map(|(n, _)| (s.clone(), n.clone())))
            .collect();
        for (space, name) in links {
            forget_link(self, &space, &name);
        }
    }

    fn add_link(&mut self, space: &Space, name: &IfName, link: &Link) -> Result<(), Refused> {
        if link.master.as_ref().is_some_and(|m| !self.spaces.get(space).is_some_and(|s| s.links.contains_key(m))) {
            return Err(Refused::NotFound);
        }
        if self.space(space)?.links.contains_key(name) {
            return Err(Refused::Exists);
        }
        if matches!(&link.kind, LinkKind::Vxlan(v) if v.socket.as_ref().is_none_or(|s| !self.spaces.contains_key(s))) {
            return Err(Refused::NotFound);
        }
        // Whether a foreign parent is there is not known here.
        let known = |parent: &IfName| self.spaces.get(&Space::Host).is_some_and(|s| s.links.contains_key(parent));
        if link.kind.parent().is_some_and(|p| own::host_name(p.as_str()) && !known(p)) {
            return Err(Refused::NotFound);
        }
        if let LinkKind::Veth { peer: (peer_space, peer) } = &link.kind {
            let other = Link {
                kind: LinkKind::Veth { peer: (space.clone(), name.clone()) },
                mac: None,
                mtu: link.mtu,
                up: false,
                master: None,
                port: PortFlags::default(),
            };
            let links = &mut self.space(peer_space)?.links;
            if links.contains_key(peer) {
                return Err(Refused::Exists);
            }
            links.insert(peer.clone(), other);
        }
        self.space(space)?.links.insert(name.clone(), link.clone());
        Ok(())
    }
}
