//! Workloads of one host outside of any cluster: their life, names, networks; what a restart leaves alone; what is left.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{Lab, program, skipped, wait};
use serde_json::Value;
use std::collections::BTreeSet;

const NODE: &str = "node1";

/// The names that `ps` shows.
fn names(lab: &Lab, all: bool) -> BTreeSet<String> {
    let mut args = vec!["ps", "--format", "json"];
    args.extend(all.then_some("-a"));
    let rows: Value = lab.json(NODE, &args);
    rows.as_array().unwrap().iter().map(|r| r["Names"].as_str().unwrap().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn out(output: &std::process::Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_workload_is_run_watched_stopped_started_and_removed() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-wl-life", 1);
    let id = lab.run_web(NODE, "web", &["--env", "COLOUR=red", "--hostname", "h1", "--label", "tier=front"]);
    assert_eq!(id.len(), 25, "{id}");
    assert_eq!(names(&lab, false), set(&["web"]));
    assert_eq!(lab.heddle(NODE, &["ps", "-q", "--no-trunc", "--filter", "label=tier=front"]).trim(), id);
    assert_eq!(lab.heddle(NODE, &["ps", "-q", "--filter", "name=nobody"]), "");
    assert_eq!(lab.inside(NODE, "web", "echo $COLOUR $(hostname)").trim(), "red h1");
    wait("its output is there", || {
        let said = lab.heddle(NODE, &["logs", "web"]);
        if said.contains("listening on port 80") { Ok(()) } else { Err(said) }
    });
    let code = lab.exec(NODE, &["heddle", "exec", "-e", "N=4", "-w", "/tmp", "web", "sh", "-c", "pwd; exit $N"]);
    assert_eq!(out(&code), (Some(4), "/tmp".into(), String::new()));

    let seen = lab.workload(NODE, "web");
    assert_eq!((&seen["Name"], &seen["Id"]), (&"/web".into(), &id.as_str().into()));
    assert_eq!((&seen["State"]["Status"], &seen["Config"]["Hostname"]), (&"running".into(), &"h1".into()));
    assert_eq!(lab.workload(NODE, &id[..8])["Name"], "/web", "the beginning of an id is enough");

    lab.heddle(NODE, &["stop", "-t", "5", "web"]);
    assert_eq!((names(&lab, false), names(&lab, true)), (set(&[]), set(&["web"])));
    assert_eq!(lab.workload(NODE, "web")["State"]["Status"], "exited");
    // It was asked, and ended by itself.
    assert_eq!(lab.heddle(NODE, &["wait", "web"]).trim(), "0");
    let said = lab.refused(NODE, &["exec", "web", "true"]);
    assert!(said.contains("web is not running"), "{said}");

    lab.heddle(NODE, &["start", "web"]);
    let again = lab.workload(NODE, "web");
    assert_eq!((&again["Id"], &again["RestartCount"]), (&seen["Id"], &1.into()));
    assert_eq!(again["NetworkSettings"]["Networks"], seen["NetworkSettings"]["Networks"], "the place is kept");
    let said = lab.refused(NODE, &["rm", "web"]);
    assert!(said.contains("web is running: stop it first, or use --force"), "{said}");
    lab.heddle(NODE, &["rm", "-f", "web"]);
    assert_eq!(names(&lab, true), set(&[]));
    let said = lab.refused(NODE, &["inspect", "web"]);
    assert!(said.contains("\"web\""), "{said}");
    lab.heddle(NODE, &["rm", "-f", "web"]);
}

#[test]
fn the_foreground_gives_output_and_exit_code() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-wl-fore", 1);
    let script = "echo to out; echo to err >&2; exit 7";
    let ended = lab.attended(NODE, &["--name", "kept", "--", "sh", "-c", script]);
    assert_eq!(out(&ended), (Some(7), "to out".into(), "to err".into()));
    assert_eq!(lab.heddle(NODE, &["wait", "kept"]).trim(), "7");
    assert_eq!(out(&lab.exec(NODE, &["heddle", "logs", "kept"])), (Some(0), "to out".into(), "to err".into()));
    let ended = lab.attended(NODE, &["--rm", "--name", "gone", "--", "sh", "-c", script]);
    assert_eq!(ended.status.code(), Some(7));
    assert_eq!(names(&lab, true), set(&["kept"]));
    // By its own hand, and by the daemon's when nobody attends.
    lab.heddle(NODE, &["run", "-d", "--rm", "--name", "brief", "--", "true"]);
    wait("it is removed after its end", || {
        let left = names(&lab, true);
        if left == set(&["kept"]) { Ok(()) } else { Err(format!("{left:?}")) }
    });
    // What cannot be run is not the program's doing: docker's 125, and nothing stays.
    let ended = lab.attended(NODE, &["--", "/no/such/program"]);
    let (code, _, said) = out(&ended);
    assert!(code == Some(125) && said.contains("/no/such/program"), "{code:?} {said}");
    assert_eq!(names(&lab, true), set(&["kept"]));
    // Much output comes whole.
    let ended = lab.attended(NODE, &["--rm", "--", "seq", "20000"]);
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!((text.lines().count(), text.lines().last()), (20000, Some("20000")));
}

/// A name server of the outside world, at port 53 of the client: it knows one name and refuses the others.
const NAME_SERVER: &str = "import socket,os,sys
s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM);s.setsockopt(41,26,0);s.bind(('::',53))
if os.fork(): sys.exit()
os.setsid();[os.close(n) for n in (0,1,2)]
while True:
  q,a=s.recvfrom(4096);end=q.index(b'\\0',12)
  known=q[12:end].lower()==b'\\x07outside\\x07example' and q[end+2]==1
  head=q[:2]+(b'\\x81\\x80' if known else b'\\x81\\x83')+b'\\0\\1'+(b'\\0\\1' if known else b'\\0\\0')+b'\\0\\0\\0\\0'
  s.sendto(head+q[12:end+5]+(b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x05\\0\\4\\xc0\\0\\2\\x4d' if known else b''),a)";

fn outside_names(lab: &Lab) {
    lab.exec("client", &["python3", "-c", NAME_SERVER]);
    lab.sh(NODE, "mount -t tmpfs none /mnt && echo nameserver 10.77.0.250 > /mnt/r && mount --bind /mnt/r $(readlink -f /etc/resolv.conf)");
}

#[test]
fn names_resolve_on_networks_that_were_made_and_not_on_the_default_one() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-wl-names", 1);
    outside_names(&lab);
    lab.heddle(NODE, &["network", "create", "front"]);
    lab.heddle(NODE, &["network", "create", "back"]);
    let id = lab.run_web(NODE, "web", &["--network", "front", "--network-alias", "www"]);
    lab.run_web(NODE, "asker", &["--network", "front"]);
    lab.run_web(NODE, "other", &["--network", "back"]);
    lab.run_web(NODE, "plain1", &[]);
    lab.run_web(NODE, "plain2", &[]);
    let (v4, v6) = (lab.address(NODE, "web", "front", true), lab.address(NODE, "web", "front", false));
    for name in ["web", "www", &id[..12], "WEB.front", "web."] {
        assert_eq!(lab.dig(NODE, "asker", &format!("{name} A")), std::slice::from_ref(&v4), "{name}");
        assert_eq!(lab.dig(NODE, "asker", &format!("{name} AAAA")), std::slice::from_ref(&v6), "{name}");
    }
    assert_eq!(lab.dig(NODE, "asker", &format!("-x {v4}")), ["web.front."]);
    assert_eq!(lab.dig(NODE, "asker", &format!("-x {v6}")), ["web.front."]);
    assert_eq!(lab.dig(NODE, "asker", "asker A"), [lab.address(NODE, "asker", "front", true)]);
    // Neither a neighbour of another network nor one of the default network.
    assert_eq!(lab.dig(NODE, "asker", "other A"), Vec::<String>::new());
    assert_eq!(lab.dig(NODE, "plain1", "plain2 A"), Vec::<String>::new());
    assert_eq!(lab.dig(NODE, "plain1", "web A"), Vec::<String>::new());
    for name in ["asker", "other", "plain1"] {
        assert_eq!(lab.dig(NODE, name, "outside.example A"), ["192.0.2.77"], "{name} asks the host's resolver");
        assert_eq!(lab.dig(NODE, name, "+tries=1 nobody.example A"), Vec::<String>::new());
    }
    // Programs look as well, by the C library.
    assert!(lab.inside(NODE, "asker", "getent ahostsv4 www").contains(&v4));
    assert_eq!(lab.ask_from(NODE, "asker", "web:80", false).by(), Ok("web".into()));
    // A name ends with who had it.
    lab.heddle(NODE, &["rm", "-f", "web"]);
    assert_eq!(lab.dig(NODE, "asker", "web A"), Vec::<String>::new());
    lab.run_web(NODE, "web", &["--network", "front"]);
    assert_eq!(lab.dig(NODE, "asker", "web A"), [lab.address(NODE, "web", "front", true)]);
}

#[test]
fn dns_flags_and_extra_hosts_are_seen_inside() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-wl-dns", 1);
    lab.exec("client", &["python3", "-c", NAME_SERVER]);
    // The host itself knows nobody to ask.
    lab.sh(NODE, "mount -t tmpfs none /mnt && echo nameserver 127.0.0.9 > /mnt/r && mount --bind /mnt/r $(readlink -f /etc/resolv.conf)");
    lab.heddle(NODE, &["network", "create", "front"]);
    for network in ["bridge", "front"] {
        let name = format!("on-{network}");
        let more = [
            "--network",
            network,
            "--dns",
            "10.77.0.250",
            "--dns-search",
            "example",
            "--dns-option",
            "ndots:1",
            "--add-host",
            "db:10.0.0.5",
            "--add-host",
            "six=[fd00::5]",
            "--hostname",
            "h1",
        ];
        lab.run_web(NODE, &name, &more);
        assert_eq!(lab.dig(NODE, &name, "outside.example A"), ["192.0.2.77"], "{network}");
        assert_eq!(lab.dig(NODE, &name, "+search outside A"), ["192.0.2.77"], "{network}");
        let hosts = lab.inside(NODE, &name, "cat /etc/hosts /etc/resolv.conf");
        let own = lab.address(NODE, &name, network, true);
        let own = format!("{own} h1");
        for line in
            ["10.0.0.5 db", "fd00::5 six", own.as_str(), "search example", "options ndots:1 timeout:3 attempts:3"]
        {
            assert!(hosts.lines().any(|l| l == line), "{network}: {line}: {hosts}");
        }
    }
    // Asked from inside the workload, where its address is known: the host's own network is not needed for it.
    lab.run_web(NODE, "without", &[]);
    assert_eq!(lab.dig(NODE, "without", "outside.example A"), Vec::<String>::new());
    // The host's own lists are as they were.
    assert!(!lab.sh(NODE, "cat /etc/hosts").contains("10.0.0.5 db"));
}

#[test]
fn host_and_none_have_the_hosts_links_and_none() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-wl-host", 1);
    let before = lab.kernel(NODE);
    let args =
        ["run", "-d", "--name", "h", "--network", "host", "-p", "81:80", "--", "heddle", "whoami", "--port", "80"];
    let output = lab.exec(NODE, &[&["heddle"], &args[..]].concat());
    let (code, _, said) = out(&output);
    assert!(code == Some(0) && said.contains("ublished ports are discarded when using host network mode"), "{said}");
    wait("it listens on the host", || lab.ask("client", "10.77.0.1:80", 1, false).by());
    assert_eq!(lab.ask("client", "[fd77::1]:80", 1, true).by(), Ok("h".into()));
    assert!(lab.ask("client", "10.77.0.1:81", 1, false).failed.contains("refused"));
    assert_eq!(lab.inside(NODE, "h", "hostname").trim(), NODE, "the host's own name, as docker has it");
    let links = |script: &str| script.replace("LS", "ls /sys/class/net | sort | tr '\\n' ' '");
    assert_eq!(lab.inside(NODE, "h", &links("LS")), lab.sh(NODE, &links("LS")), "and its links");
    // A second one finds the port taken, by its own means.
    let ended = lab.attended(NODE, &["--rm", "--network", "host", "--", "heddle", "whoami", "--port", "80"]);
    let (code, _, said) = out(&ended);
    assert!(code == Some(1) && said.contains("cannot listen at") && said.contains("in use"), "{code:?} {said}");
    lab.heddle(NODE, &["rm", "-f", "h"]);

    lab.run_web(NODE, "alone", &["--network", "none"]);
    wait("it reaches itself", || lab.ask_from(NODE, "alone", "127.0.0.1:80", false).by());
    assert_eq!(lab.inside(NODE, "alone", "ip route; ip -6 route; ip -o link | grep -v lo: || true"), "");
    // Its own links, which nobody changes by files.
    assert_eq!(lab.inside(NODE, "alone", &links("LS")).trim(), "lo");
    let written = lab.exec(NODE, &["heddle", "exec", "alone", "sh", "-c", "echo 1400 > /sys/class/net/lo/mtu"]);
    assert!(String::from_utf8_lossy(&written.stderr).contains("Read-only"), "{written:?}");
    assert!(lab.inside(NODE, "alone", "ls -A /dev/shm").is_empty());
    lab.heddle(NODE, &["rm", "-f", "alone"]);
    assert_eq!(lab.kernel(NODE), before, "neither needs anything of the host");
}

#[test]
fn several_networks_with_addresses_of_choice_and_one_way_out() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-wl-several", 1);
    lab.sh("client", &format!("timeout 100 {} whoami --port 9000 >/dev/null 2>&1 &", program().display()));
    wait("the world answers", || lab.ask("client", "10.77.0.250:9000", 1, false).by());
    for (name, v4, v6) in [("a", "10.81.0.0/24", "fd81::/64"), ("b", "10.82.0.0/24", "fd82::/64")] {
        lab.heddle(NODE, &["network", "create", name, "--subnet", v4, "--subnet", v6]);
    }
    lab.heddle(NODE, &["network", "create", "inner", "--internal", "--subnet", "10.83.0.0/24"]);
    lab.run_web(NODE, "at-a", &["--network", "a", "--ip", "10.81.0.77", "--ip6", "fd81::77"]);
    lab.run_web(NODE, "at-b", &["--network", "b"]);
    lab.run_web(NODE, "at-inner", &["--network", "inner"]);
    assert_eq!(lab.address(NODE, "at-a", "a", true), "10.81.0.77");
    assert_eq!(lab.address(NODE, "at-a", "a", false), "fd81::77");

    let gateway = |name: &str| {
        let route = |family: &str| {
            let route = lab.inside(NODE, name, &format!("ip {family} route show default"));
            let words: Vec<&str> = route.split_whitespace().collect();
            words.iter().position(|w| *w == "via").map(|at| words[at + 1].to_owned()).unwrap_or_default()
        };
        (route("-4"), route("-6"))
    };
    // Of equals the first that was named; a priority is stronger; what is internal leads nowhere.
    lab.run_web(NODE, "first", &["--network", "b", "--network", "a", "--network", "inner"]);
    assert_eq!(gateway("first"), ("10.82.0.1".into(), "fd82::1".into()));
    lab.run_web(
        NODE,
        "strong",
        &["--network", "name=b,gw-priority=5,ip=10.82.0.99", "--network", "a", "--network", "name=inner,gw-priority=9"],
    );
    assert_eq!(gateway("strong"), ("10.82.0.1".into(), "fd82::1".into()));
    assert_eq!(gateway("at-inner"), (String::new(), String::new()));
    for who in ["first", "strong"] {
        for (target, name) in [
            ("at-a:80", "at-a"),
            ("at-b:80", "at-b"),
            ("at-inner:80", "at-inner"),
            ("10.81.0.77:80", "at-a"),
            ("[fd81::77]:80", "at-a"),
        ] {
            for udp in [false, true] {
                assert_eq!(lab.ask_from(NODE, who, target, udp).by(), Ok(name.into()), "{who} to {target} udp={udp}");
            }
        }
        assert!(lab.ask_from(NODE, who, "10.77.0.250:9000", false).by().is_ok(), "{who} reaches the world");
        assert!(lab.ask_from(NODE, who, "[fd77::fa]:9000", false).by().is_ok(), "{who} reaches the world by IPv6");
    }
    assert!(lab.ask_from(NODE, "at-inner", "10.77.0.250:9000", false).by().is_err());
    let seen = lab.workload(NODE, "strong");
    assert_eq!(seen["NetworkSettings"]["Networks"]["b"]["GwPriority"], 5);
    assert_eq!(seen["NetworkSettings"]["Networks"]["b"]["IPAddress"], "10.82.0.99");
}

#[test]
fn a_restart_of_the_daemon_and_a_cluster_that_comes_and_goes_leave_workloads_alone() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-wl-restart", 1);
    lab.heddle(NODE, &["network", "create", "front"]);
    lab.run_web(NODE, "web", &["--network", "front", "-p", "8080:80"]);
    lab.run_web(NODE, "plain", &["-p", "8081:80"]);
    lab.heddle(NODE, &["run", "-d", "--name", "brief", "--", "sh", "-c", "echo hello; exec cat /dev/null"]);
    lab.heddle(NODE, &["wait", "brief"]);
    let pids = || ["web", "plain"].map(|name| lab.pid(NODE, name));
    let works = |when: &str| {
        for (target, name) in [("10.77.0.1:8080", "web"), ("[fd77::1]:8080", "web"), ("10.77.0.1:8081", "plain")] {
            assert_eq!(lab.ask("client", target, 1, false).by(), Ok(name.into()), "{when}: {target}");
        }
        let (own, v4) = (lab.dig(NODE, "web", "web A"), lab.address(NODE, "web", "front", true));
        assert_eq!(own, [v4], "{when}");
    };
    let networks = || ["web", "plain"].map(|name| lab.workload(NODE, name)["NetworkSettings"]["Networks"].clone());
    let (were, placed, kernel) = (pids(), networks(), lab.kernel(NODE));
    works("at first");

    lab.do_lab(&["kill", NODE, "--daemon"]);
    assert_eq!(lab.ask("client", "10.77.0.1:8080", 1, false).by(), Ok("web".into()), "without a daemon");
    lab.do_lab(&["start", NODE]);
    wait("it knows its workloads", || {
        let known = names(&lab, false);
        if known == set(&["web", "plain"]) { Ok(()) } else { Err(format!("{known:?}")) }
    });
    assert_eq!((pids(), networks()), (were, placed.clone()));
    works("after a restart");
    assert_eq!(lab.kernel(NODE), kernel, "nothing was made again");
    assert_eq!(lab.heddle(NODE, &["logs", "brief"]).trim(), "hello");
    // Its ports are held for it still.
    assert_ne!(lab.exec(NODE, &["timeout", "1", "nc", "-l", "8080"]).status.code(), Some(124));

    lab.heddle(NODE, &["init", "--advertise-addr", "eth0"]);
    works("after init");
    lab.create_web("task", 1, &["-p", "9090:80"]);
    assert_eq!((pids(), networks()), (were, placed.clone()));
    works("beside a service");
    lab.heddle(NODE, &["leave", "--force"]);
    assert_eq!((pids(), networks()), (were, placed));
    works("after leave");
    assert_eq!(lab.kernel(NODE), kernel, "the cluster took with it what was its own");
    // A workload that ends while nobody looks is found to have ended.
    lab.do_lab(&["kill", NODE, "--daemon"]);
    lab.sh(NODE, &format!("kill {}", were[1]));
    lab.do_lab(&["start", NODE]);
    wait("its end is known", || {
        let known = names(&lab, false);
        if known == set(&["web"]) { Ok(()) } else { Err(format!("{known:?}")) }
    });
}

#[test]
fn nothing_is_left_of_what_was_removed() {
    if skipped() {
        return;
    }
    let lab = Lab::bare("t-wl-leak", 1);
    let empty = lab.kernel(NODE);
    lab.heddle(NODE, &["network", "create", "front"]);
    lab.heddle(NODE, &["network", "create", "closed", "--internal", "-o", "com.docker.network.bridge.name=closed0"]);
    let networks_only = lab.kernel(NODE);
    assert!(networks_only.contains("closed0"), "{networks_only}");
    for n in 0..4 {
        let (name, port) = (format!("w{n}"), format!("{}:80", 8000 + n));
        lab.run_web(NODE, &name, &["--network", "front", "--network", "closed", "-p", &port]);
        lab.run_web(NODE, &format!("p{n}"), &["-p", "80"]);
        // One in the middle of its life, one that has ended.
        if n % 2 == 0 {
            lab.heddle(NODE, &["stop", &name]);
        }
    }
    lab.heddle(NODE, &["rm", "-f", "w0", "w1", "w2", "w3", "p0", "p1", "p2", "p3"]);
    assert_eq!(lab.kernel(NODE), networks_only);
    assert_eq!(lab.sh(NODE, "ss -Htuln | grep -c ':80' || true").trim(), "0", "ports are free again");
    lab.heddle(NODE, &["network", "rm", "front", "closed"]);
    assert_eq!(lab.kernel(NODE), empty);
    let left = lab.sh(NODE, "ps -e -o args | grep -v -e grep -e daemon -e lab-host | grep heddle || true");
    assert_eq!(left, "", "no process stays");
}
