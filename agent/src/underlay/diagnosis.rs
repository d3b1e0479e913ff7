//! What an operator hears who asks how things are below the overlays: good and bad. Decides only.

use super::Below;
use crate::agent::TunnelPicture;
use heddle_model::net::Port;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: &'static str,
    /// How it is, or what is wrong with it.
    pub result: Result<String, String>,
}

pub struct Facts<'a> {
    pub errors: &'a [String],
    /// None: this host is in no cluster.
    pub member: Option<Member<'a>>,
}

pub struct Member<'a> {
    /// What is wrong with it now.
    pub address: Option<String>,
    /// Where the data path leaves the host.
    pub at: Option<String>,
    /// None: there is nobody else.
    pub paths: Option<String>,
    pub below: &'a Below,
    /// None: no encrypted network is here.
    pub peers: Option<&'a [TunnelPicture]>,
    /// Ports that a tunnel would need.
    pub ports_taken: Vec<Port>,
    pub revision: u64,
}

pub fn diagnosis(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |what, result| findings.push(Finding { what, result });
    let fine = match &facts.member {
        Some(member) => format!("the kernel has all of revision {}", member.revision),
        None => "the kernel has all that it should".into(),
    };
    all("data plane", facts.errors, Some(fine), &mut add);
    let Some(member) = &facts.member else { return findings };
    match (&member.address, &member.at) {
        (Some(wrong), _) => add("data path's address", Err(wrong.clone())),
        (None, Some(at)) => add("data path's address", Ok(at.clone())),
        (None, None) => {}
    }
    all("ways to other hosts", &member.below.paths, member.paths.clone(), &mut add);
    match member.peers {
        Some(peers) => all("tunnel", &member.below.tunnel, Some(tunnel(peers)), &mut add),
        None if member.ports_taken.is_empty() => add("tunnel", Ok("no encrypted network is here".into())),
        None => {
            for port in &member.ports_taken {
                add(
                    "tunnel",
                    Err(format!("UDP port {port}, which encrypted networks need, is in use: end what uses it")),
                );
            }
        }
    }
    findings
}

/// What is wrong, and if nothing is, how it is.
fn all(
    what: &'static str,
    wrong: &[String],
    fine: Option<String>,
    add: &mut impl FnMut(&'static str, Result<String, String>),
) {
    wrong.iter().for_each(|w| add(what, Err(w.clone())));
    if let Some(fine) = fine.filter(|_| wrong.is_empty()) {
        add(what, Ok(fine));
    }
}

fn tunnel(peers: &[TunnelPicture]) -> String {
    let met = peers.iter().filter(|p| p.last_handshake.is_some()).count();
    match peers.len() {
        0 => "there is no other host to shake hands with".into(),
        all => format!("{met} of {all} keys of other hosts have shaken hands; who is not sent to need not"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_told_and_what_is_wrong_with_it() {
        let fine = Below::default();
        let member = |below| Member {
            address: None,
            at: Some("10.77.0.2 on eth0, MTU 1500".into()),
            paths: Some("packets arrive".into()),
            below,
            peers: None,
            ports_taken: vec![],
            revision: 7,
        };
        let texts = |facts: &Facts<'_>| -> Vec<String> {
            let text = |f: Finding| match f.result {
                Ok(text) => format!("{}: {text}", f.what),
                Err(text) => format!("{} WRONG: {text}", f.what),
            };
            diagnosis(facts).into_iter().map(text).collect()
        };
        assert_eq!(
            texts(&Facts { errors: &[], member: Some(member(&fine)) }),
            [
                "data plane: the kernel has all of revision 7",
                "data path's address: 10.77.0.2 on eth0, MTU 1500",
                "ways to other hosts: packets arrive",
                "tunnel: no encrypted network is here",
            ]
        );
        let below = Below { address: None, paths: vec!["a".into(), "b".into()], tunnel: vec!["c".into()] };
        let sick = Member { address: Some("gone".into()), peers: Some(&[]), ..member(&below) };
        assert_eq!(
            texts(&Facts { errors: &["port taken".into()], member: Some(sick) }),
            [
                "data plane WRONG: port taken",
                "data path's address WRONG: gone",
                "ways to other hosts WRONG: a",
                "ways to other hosts WRONG: b",
                "tunnel WRONG: c",
            ]
        );
        let squatted = Member { ports_taken: vec![Port::try_from(51821).unwrap()], ..member(&fine) };
        assert!(texts(&Facts { errors: &[], member: Some(squatted) })[3].starts_with("tunnel WRONG: UDP port 51821"));
        assert_eq!(texts(&Facts { errors: &[], member: None }), ["data plane: the kernel has all that it should"]);
    }
}
