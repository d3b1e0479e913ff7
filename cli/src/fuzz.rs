//! What an operator writes, tried with what nobody should: command lines, values of flags, files of settings.

use crate::{
    args::Cli,
    commands::{
        moment, pair,
        run::{env, publish, wish},
        service::settings,
    },
    config,
    node::{addr, state::NodeState},
    whoami::probe::Target,
};
use clap::{CommandFactory, Parser};
use heddle_fuzz::{Memory, one_of, run, run_text};
use jiff::Timestamp;
use std::path::Path;

/// All commands and their flags are made for each line.
const COMMANDS: Memory = Memory { base: 16 << 20, factor: 16 << 10 };

#[test]
fn command_lines() {
    let lines = [
        "heddle init --advertise-addr eth0:2377 --dispatcher-heartbeat 1s --default-addr-pool 10.0.0.0/8",
        "heddle service create --process --name web --replicas 3 -p 8080:80/tcp --env A=b --label c=d -- heddle whoami",
        "heddle service update web --update-delay 5s --update-order start-first --publish-add published=1,target=2",
        "heddle run -d --name a -p [::1]:80:80 --network name=n,ip=10.1.0.5 --add-host db:10.0.0.5 -- true",
        "heddle network create --driver overlay --subnet 10.1.0.0/24 --aux-address r=10.1.0.5 -o encrypted n",
        "heddle node update --availability drain --label-add a=b n",
        "heddle --as /tmp events --since 7 --until 9 --filter kind=task --format json",
        "heddle logs --since 2026-01-31T12:00:00Z -n 5 x",
    ];
    run(COMMANDS, one_of(&lines), |bytes| drop(Cli::try_parse_from(String::from_utf8_lossy(bytes).split(' '))));
}

#[test]
fn settings_in_a_file() {
    let command = Cli::command().args_override_self(true);
    let files =
        ["log = \"debug\"\nlog-json = true\nstate-dir = \"/srv\"\n", "metrics-addr = \"127.0.0.1:9\"\nlb-backend = 7"];
    run(COMMANDS, one_of(&files), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        drop(config::flags(&command, Path::new("config.toml"), &text, |_| false));
    });
}

#[test]
fn ports_to_publish() {
    run_text(&["127.0.0.1:8000-8010:80-90/udp", "[fd00::1]::80", "8080:80", "80"], |text| {
        if let Ok(wish) = publish::parse(text) {
            assert!(!wish.target.is_empty() && wish.host.is_none_or(|h| !h.is_empty()), "{text}");
        }
    });
    run_text(&["8080:80/tcp", "published=1,target=2,protocol=udp,mode=host"], |text| drop(settings::port(text)));
}

#[test]
fn networks_to_join() {
    run_text(
        &["back", "name=back,alias=a,ip=10.1.0.9,ip6=fd00::9,mac-address=02:42:00:00:00:09,gw-priority=-3"],
        |text| {
            drop(wish::parse(text));
            drop(settings::network(text));
        },
    );
}

#[test]
fn times() {
    let now = Timestamp::from_second(1_000_000).unwrap();
    run_text(&["10m", "1h30m5s", "12.5", "1e300", "1970-01-01T00:01:00Z", "2026-01-31T12:00:00", "P1DT2H"], |text| {
        if let Ok(millis) = moment::parse(text, now) {
            drop(moment::show(millis));
        }
        drop(moment::duration(text));
    });
}

#[test]
fn pairs_and_environments() {
    run_text(&["A=b", "A", "# A\nB=c\n\u{feff}D = e"], |text| {
        if let Ok((key, _)) = pair::key_value(text) {
            assert!(!key.is_empty());
        }
        drop(pair::key(text));
        if let Ok(all) = env::file(text, |_| None) {
            assert!(all.keys().all(|k| !k.is_empty() && !k.contains('=')));
        }
    });
}

#[test]
fn addresses() {
    run_text(&["192.0.2.1:2377", "[fd00::1]:2377", "::1", "eth0:99"], |text| {
        if let Some(addr) = addr::remote(text) {
            assert_ne!(addr.port(), 0, "{text}");
        }
    });
    run_text(&["tcp4:web:80", "udp6:[fd00::1]:80"], |text| drop(text.parse::<Target>()));
}

#[test]
fn state_of_the_node() {
    let state = NodeState {
        advertise: ([192, 0, 2, 1], 2377).into(),
        listen: vec![([0, 0, 0, 0], 2377).into()],
        data_path: [192, 0, 2, 1].into(),
        managers: vec![],
    };
    run(Memory::USUAL, one_of(&[serde_json::to_vec(&state).unwrap()]), |bytes| {
        if let Ok(read) = serde_json::from_slice::<NodeState>(bytes) {
            let text = serde_json::to_vec(&read).unwrap();
            assert_eq!(serde_json::from_slice::<NodeState>(&text).unwrap(), read);
        }
    });
}
