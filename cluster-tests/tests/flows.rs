//! Datagrams of one socket find who is there now, although connection tracking remembers who was there before.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, skipped, wait};

/// Sends on one socket, again and again, until it is ended, and writes down which task answered last.
const CLIENT: &str = r#"
import json, socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.05)
s.connect(("10.77.0.1", 5300))
for _ in range(1200):
    said = "nobody"
    try:
        s.send(b"?")
        said = json.loads(s.recv(4096))["task"]
    except OSError:
        pass
    open("/run/answered", "w").write(said)
    time.sleep(0.02)
"#;

#[test]
fn a_socket_that_sends_all_the_time_reaches_whoever_is_there() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-flows", 1);
    // Without any tracking of flows there is nothing to remember.
    lab.heddle("node1", &["run", "-d", "--name", "other", "-p", "81:80", "--", "heddle", "whoami", "--port", "80"]);
    lab.sh(
        "client",
        &format!("echo '{}' > /run/client.py; (timeout 60 python3 /run/client.py) >/dev/null 2>&1 &", CLIENT),
    );
    let answered = |whom: &str| {
        wait(&format!("{whom} answers"), || {
            let said = lab.sh("client", "cat /run/answered || true");
            if said == whom { Ok(()) } else { Err(said) }
        });
    };
    answered("nobody");
    for name in ["first", "second"] {
        let run = ["run", "-d", "--name", name, "-p", "5300:80/udp", "--", "heddle", "whoami", "--port", "80"];
        lab.heddle("node1", &run);
        answered(name);
        lab.heddle("node1", &["rm", "-f", name]);
        answered("nobody");
    }
}
