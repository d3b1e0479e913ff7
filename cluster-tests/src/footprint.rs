//! All that a host has of which a leak could be made: kernel objects of every namespace, mounts, processes, ports, and what
//! the daemon itself takes; and what a lab could leave on this machine.

use crate::{Lab, wait};
use serde_json::Value;
use std::{collections::BTreeSet, process::Command};

/// A line for each thing. Two of the same host that differ tell what was left behind and what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

/// Each part begins with a line `@ NAMESPACE KIND`. The measuring shell knows itself by its first words, and what it measures with
/// runs before or after it looks at processes.
const SCRIPT: &str = r#"
at() { if [ "$1" = host ]; then shift; "$@"; else n=$1; shift; nsenter --net=/run/netns/$n "$@"; fi; }
for n in host $(ls /run/netns); do
    echo "@ $n addresses"; at $n ip -j address
    echo "@ $n routes"; at $n ip -j route show table all proto 104
    echo "@ $n routes"; at $n ip -j -6 route show table all proto 104
    echo "@ $n rules"; at $n ip -j rule
    echo "@ $n neighbours"; at $n ip -j neighbour show nud permanent
    echo "@ $n forwarding"; at $n bridge -j fdb
    echo "@ $n tables"; at $n nft -j list ruleset
    echo "@ $n ports"; at $n cat /proc/self/net/tcp /proc/self/net/tcp6 /proc/self/net/udp /proc/self/net/udp6
done
echo "@ host mounts"; cut -d' ' -f5 /proc/1/mountinfo
echo "@ host processes"
seen=$(for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || { tr '\0' ' ' <$p/cmdline; grep ^State $p/status; } 2>/dev/null; done)
echo "$seen" | paste -sd' ' | sed 's/([a-z]*) */\n/g'
echo "@ host networks"; "$HEDDLE" network ls --format json
echo "@ host workloads"; "$HEDDLE" ps -a --format json
"#;

impl Footprint {
    pub fn of(lab: &Lab, host: &str) -> Self {
        let program = crate::program().display().to_string();
        let text = lab.sh(host, &format!("HEDDLE={program}\n{SCRIPT}"));
        let (mut space, mut kind, mut part) = (String::new(), String::new(), String::new());
        let mut found = BTreeSet::new();
        for line in text.lines().chain(["@ end end"]) {
            if let Some(next) = line.strip_prefix("@ ") {
                found.extend(things(&kind, &part).into_iter().map(|thing| format!("{space}: {kind}: {thing}")));
                part.clear();
                let words = next.split_once(' ').unwrap_or((next, ""));
                (space, kind) = (words.0.to_owned(), words.1.to_owned());
            } else {
                part.push_str(line);
                part.push('\n');
            }
        }
        assert!(found.len() > 20, "a host has more than {found:?}");
        Footprint(found)
    }

    /// What `later` has too much (+) and what it lacks (-).
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let more = later.0.difference(&self.0).map(|thing| format!("+ {thing}"));
        more.chain(self.0.difference(&later.0).map(|thing| format!("- {thing}"))).collect()
    }
}

fn things(kind: &str, part: &str) -> Vec<String> {
    let json = || -> Vec<Value> {
        let value: Value = serde_json::from_str(part.trim()).unwrap_or_default();
        value.as_array().cloned().unwrap_or_default()
    };
    let fields = |value: &Value, names: &[&str]| {
        names.iter().map(|name| format!("{name} {}", value[name])).collect::<Vec<_>>().join(" ")
    };
    match kind {
        "addresses" => json()
            .iter()
            .flat_map(|link| {
                let name = link["ifname"].as_str().unwrap_or_default().to_owned();
                let addresses = link["addr_info"].as_array().cloned().unwrap_or_default();
                // The kernel gives link-local ones, and takes its time over them.
                let global = addresses.into_iter().filter(|a| a["scope"] != "link");
                let global = global.map(|a| fields(&a, &["local", "prefixlen"]));
                let state = fields(link, &["master", "mtu", "address"]);
                std::iter::once(state).chain(global).map(|text| format!("{name} {text}")).collect::<Vec<_>>()
            })
            .collect(),
        "routes" => json().iter().map(|r| fields(r, &["dst", "gateway", "dev", "table"])).collect(),
        "neighbours" => json().iter().map(|n| fields(n, &["dst", "dev", "lladdr"])).collect(),
        "forwarding" => json().iter().map(|f| fields(f, &["mac", "ifname", "dst", "state"])).collect(),
        "networks" | "workloads" => {
            let all = if part.trim_start().starts_with('[') { json() } else { lines_of_json(part) };
            all.iter().map(|d| fields(d, &["ID", "Name", "Names"])).collect()
        }
        "rules" => json().iter().map(Value::to_string).collect(),
        "tables" => tables(part),
        "ports" => part.lines().filter_map(port).collect(),
        _ => part.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect(),
    }
}

fn lines_of_json(part: &str) -> Vec<Value> {
    part.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A bound socket that waits for others, from a line of /proc/net/{tcp,udp}.
fn port(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip(1);
    let (local, state) = (words.next()?, words.nth(1)?);
    let waits = state == "0A" || state == "07";
    (waits && local.contains(':')).then(|| format!("{local} {state}"))
}

/// Objects of a ruleset without what says nothing: handles, counts, and the order of elements.
fn tables(part: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(part.trim()).unwrap_or_default();
    let mut out = Vec::new();
    for object in value["nftables"].as_array().into_iter().flatten().filter(|o| o.get("metainfo").is_none()) {
        let mut object = object.clone();
        plain(&mut object);
        out.push(object.to_string());
    }
    out
}

fn plain(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for noise in ["handle", "packets", "bytes"] {
                map.remove(noise);
            }
            if let Some(Value::Array(elements)) = map.get_mut("elem") {
                elements.sort_by_key(Value::to_string);
            }
            map.values_mut().for_each(plain);
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        _ => {}
    }
}

/// What a daemon takes.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub resident_kib: u64,
    pub files: u64,
    pub threads: u64,
    /// Of processor time, since it started.
    pub busy_ms: u64,
}

impl Usage {
    pub fn of(lab: &Lab, host: &str) -> Self {
        let script = r#"p=/proc/$(pgrep -of 'heddle daemon')
            grep -E '^(VmRSS|Threads)' $p/status | tr -dc '0-9\n'
            ls $p/fd | wc -l
            sed 's/.*) //' $p/stat | cut -d' ' -f12,13"#;
        let text = lab.sh(host, script);
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [resident_kib, threads, files, user, system] = numbers[..] else { panic!("{host}: {text}") };
        // Clock ticks are hundredths of a second on every Linux that we know.
        Usage { resident_kib, files, threads, busy_ms: (user + system) * 10 }
    }
}

/// Everything of this machine that a lab could leave behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    lab: String,
    found: Vec<String>,
}

impl Traces {
    pub fn of(lab: &str) -> Self {
        let processes = format!("pgrep -af 'heddle.*{lab}' | grep -v pgrep");
        let files = format!("find /run/heddle-lab/{lab} /var/lib/heddle-lab/{lab} 2>/dev/null");
        let looks = [
            "ls /sys/class/net",
            "ls /run/netns",
            "nft list tables",
            "cut -d' ' -f2 /proc/mounts | sort",
            "ls -d /sys/fs/cgroup/heddle /sys/fs/cgroup/*/heddle 2>/dev/null",
            "lsns -t net -n -o NS | sort",
            &files,
            &processes,
        ];
        let output = |look: &str| {
            let output = Command::new("sh").args(["-c", look]).output().expect("sh runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        Self { lab: lab.to_owned(), found: looks.map(output).into() }
    }

    /// Waits until these are all that there are: the kernel takes a namespace apart in its own time.
    pub fn alone_are_left(&self) {
        wait("the machine is as it was", || {
            let now = Self::of(&self.lab);
            if now == *self { Ok(()) } else { Err(format!("{now:#?} instead of {self:#?}")) }
        });
    }
}
