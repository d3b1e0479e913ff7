//! Published ports: every host answers, every replica takes its turn, and the client's own address arrives.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{
    Lab,
    balancing::{self, TARGETS, one},
    skipped,
};

#[test]
fn every_host_answers_with_the_clients_own_address() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-ingress", 3, 1);
    balancing::every_host_answers_with_the_clients_own_address(&lab);
}

/// From one port of the client's to two hosts at once: the first connection takes no harm, and the second has its turn.
const ONE_PORT: &str = r#"
import socket, sys, threading, time

def connect(host):
    ours = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ours.settimeout(20)
    ours.bind(("", 41000))
    ours.connect((host, 8080))
    return ours

def ask(ours):
    ours.sendall(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
    assert b"200 OK" in ours.recv(65536)

answered = []
def second():
    ask(connect(sys.argv[2]))
    answered.append(True)

first = connect(sys.argv[1])
ask(first)
other = threading.Thread(target=second)
other.start()
for _ in range(5):
    time.sleep(0.3)
    ask(first)
assert not answered, "both had the port at once"
first.close()
other.join(20)
assert answered, "the second was never answered"
"#;

#[test]
fn one_replica_answers_on_every_host_and_none_refuses_at_once() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-refuse", 3, 1);
    lab.create_web("web", 1, &["-p", "8080:80"]);
    for (target, client) in TARGETS {
        let answers = lab.ask("client", &format!("{target}:8080"), 3, false);
        assert_eq!((answers.failed.as_str(), answers.clients), ("", one(client)), "{target}");
    }
    for (first, second) in [("10.77.0.1", "10.77.0.3"), ("fd77::2", "fd77::3")] {
        let output = lab.exec("client", &["python3", "-c", ONE_PORT, first, second]);
        assert!(output.status.success(), "{first}, {second}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // A large answer crosses the tunnel whole: the segment size is clamped.
    let task = &lab.running("node1", "web").unwrap()[0];
    let script = "head -c 3000000 /dev/zero > /dev/shm/big; (nc -l -N -p 99 < /dev/shm/big || nc -l -q1 -p 99 < /dev/shm/big) >/dev/null 2>&1 &";
    lab.in_task(task, script);
    lab.heddle(
        "node1",
        &["service", "create", "--process", "--name", "none", "-p", "8081:80", "--detach", "--", "false"],
    );
    let refused = lab.ask("client", "10.77.0.2:8081", 1, false);
    assert!(refused.failed.contains("refused"), "{}", refused.failed);
}

#[test]
fn tunnels_carry_the_networks_vni_and_nothing_crosses_plain() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-wire", 3, 1);
    lab.create_web("web", 3, &["-p", "8080:80"]);
    balancing::tunnels_carry_the_networks_vni_and_nothing_crosses_plain(&lab);
}
