//! What has to hold of names, virtual addresses and who is kept apart, on three hosts that run nothing yet.

use crate::{Lab, balancing::one, matrix::Party, spread, wire::Capture};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

/// What a task's resolver answers to each question of `dig`, sorted.
pub fn dig(lab: &Lab, task: &Value, questions: &[&str]) -> Vec<Vec<String>> {
    let asked = questions.iter().map(|q| format!("dig +time=5 +tries=1 +short {q}; echo @\n"));
    let output = lab.in_task(task, &asked.collect::<String>());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let sorted = |answer: &str| {
        let mut lines: Vec<_> = answer.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut answers: Vec<_> = said.split("@\n").map(sorted).collect();
    assert_eq!((answers.len(), answers.pop()), (questions.len() + 1, Some(vec![])), "{said}");
    answers
}

fn first(lab: &Lab, service: &str) -> Value {
    lab.running("node1", service).expect("it is told").into_iter().next().expect("it runs")
}

pub fn tasks_find_each_other_by_name_and_reach_the_virtual_address(lab: &Lab) {
    lab.heddle("node1", &["network", "create", "-d", "overlay", "front"]);
    lab.heddle("node1", &["network", "create", "-d", "overlay", "back"]);
    lab.create_web("web", 3, &["--network", "name=front,alias=www"]);
    lab.create_web("pool", 2, &["--network", "front", "--endpoint-mode", "dnsrr"]);
    lab.create_web("db", 1, &["--network", "back"]);
    lab.create_web("both", 1, &["--network", "front", "--network", "back"]);
    let network = lab.overlay("node1", "front");
    let vip = network.vips("web");
    let endpoints = |name: &str, family: usize| -> Vec<String> {
        let mut all: Vec<_> = network.endpoints(name).into_iter().map(|addrs| addrs[family].clone()).collect();
        all.sort();
        all
    };
    let caller = first(lab, "both");

    let (by_v4, by_v6) = (format!("-x {}", vip[0]), format!("-x {}", vip[1]));
    let expected = [
        ("web A", vec![vip[0].clone()]),
        ("web AAAA", vec![vip[1].clone()]),
        ("+tcp web A", vec![vip[0].clone()]),
        ("www A", vec![vip[0].clone()]),
        ("WEB.front A", vec![vip[0].clone()]),
        ("tasks.web A", endpoints("web", 0)),
        ("tasks.web AAAA", endpoints("web", 1)),
        ("pool A", endpoints("pool", 0)),
        (&by_v4, vec!["web.front.".into()]),
        (&by_v6, vec!["web.front.".into()]),
        ("nobody A", vec![]),
    ];
    let said = dig(lab, &caller, &expected.each_ref().map(|(question, _)| *question));
    for ((question, expected), said) in expected.into_iter().zip(said) {
        assert_eq!(said, expected, "{question}");
    }

    // By TCP and UDP, both families, with the caller's own overlay address as the source.
    let own = Party::task(&caller, network.id(), 80).addrs;
    let capture = Capture::start(&lab.netns("node1"), b"GET / HTTP");
    for (target, family, udp) in [
        ("web:80".to_owned(), None, false),
        (format!("{}:80", vip[0]), Some(0), false),
        (format!("[{}]:80", vip[1]), Some(1), false),
        (format!("{}:80", vip[0]), Some(0), true),
        (format!("[{}]:80", vip[1]), Some(1), true),
    ] {
        let answers = spread(3, |count| lab.ask_from_task(&caller, &target, count, udp));
        if let Some(family) = family {
            assert_eq!(answers.clients, one(&own[family].to_string()), "{target} udp={udp}");
        }
    }
    let seen = capture.end();
    assert!(seen.words > 0 && seen.vnis == BTreeSet::from([network.vni()]), "{seen:?} for VNI {}", network.vni());
    assert_eq!(seen.plain, 0, "requests cross outside of the tunnels: {seen:?}");
    // A workload reaches itself by its own service's name.
    assert_eq!(lab.ask_from_task(&caller, "both:80", 2, false).failed, "");

    // Who is only on `front` knows nothing of `back`, and cannot reach it by address either.
    let outsider = first(lab, "web");
    let back = lab.overlay("node1", "back");
    let (db_vip, db_task) = (back.vips("db"), back.endpoints("db").remove(0));
    assert_eq!(dig(lab, &outsider, &["db A", "web A"]), [vec![], vec![vip[0].clone()]]);
    let own = format!("tcp4:{}:80", vip[0]);
    let mut targets = vec![own.clone()];
    for addrs in [db_vip, db_task] {
        targets.extend([format!("tcp4:{}:80", addrs[0]), format!("tcp6:[{}]:80", addrs[1])]);
    }
    let found = Party::task(&outsider, network.id(), 80).ask(lab, &targets, Duration::from_secs(3));
    assert_eq!(found.keys().collect::<Vec<_>>(), [&own], "of {targets:?}, another overlay's are reached");
    assert_eq!(lab.ask_from_task(&caller, "db:80", 2, false).failed, "");
}
