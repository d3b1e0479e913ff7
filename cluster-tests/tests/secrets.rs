//! Secrets and configs: tasks have them as files in memory, hosts without such tasks do not, and no disk.
#![allow(clippy::unwrap_used)]

use heddle_cluster_tests::{HOSTS, Lab, program, skipped, wait};
use serde_json::Value;
use std::path::Path;

const WORD: &str = "secret-word-5c0de1f7";
const SETTINGS: &str = "listen = 80\n# config-word-91b2\n";

/// `heddle ARGS` with this on its standard input: its output, or its one sentence.
fn piped(lab: &Lab, input: &str, args: &str) -> Result<String, String> {
    let output = lab.exec("node1", &["sh", "-c", &format!("printf '%s' '{input}' | {} {args}", program().display())]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn task(lab: &Lab, service: &str) -> Value {
    wait("one runs", || match lab.running("node1", service)?.as_slice() {
        [one] => Ok(one.clone()),
        all => Err(format!("{all:?}")),
    })
}

/// The output of a shell command in the view of a task.
fn inside(lab: &Lab, task: &Value, script: &str) -> String {
    let host = task["hostname"].as_str().unwrap();
    lab.sh(host, &format!("nsenter -t {} -m -p sh -c '{script}'", task["pid"]))
}

fn create(lab: &Lab, name: &str, more: &[&str]) -> Result<String, String> {
    let head = ["service", "create", "--process", "--name", name, "--constraint", "node.hostname==node2"];
    lab.try_heddle("node1", &[&head[..], more, &["--", "heddle", "whoami", "--port", "80"]].concat())
}

#[test]
fn tasks_have_them_in_memory_and_nobody_else_has() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-secrets", 3, 1);
    let secret = piped(&lab, WORD, "secret create -l tier=db key -").unwrap();
    piped(&lab, SETTINGS, "config create app.conf -").unwrap();
    let all = lab.json("node1", &["secret", "inspect", "key"]);
    assert_eq!((&all[0]["id"], &all[0]["size"], &all[0]["labels"]["tier"]), (&secret.into(), &20.into(), &"db".into()));
    assert!(all[0]["data"].is_null() && lab.json("node1", &["config", "inspect", "app.conf"])[0]["data"].is_string());
    assert_eq!(lab.heddle("node1", &["secret", "ls", "-q", "-f", "label=tier=web"]), "");
    assert_eq!(lab.heddle("node1", &["config", "ls", "-q"]).lines().count(), 1);

    lab.sh("node2", "echo before >/run/motd");
    let files = ["--secret", "source=key,uid=1000,gid=1001,mode=0440", "--secret", "source=key,target=tls/again"];
    let over = ["--config", "app.conf", "--config", "source=app.conf,target=/run/motd"];
    create(&lab, "web", &[&files[..], &over].concat()).unwrap();
    let web = task(&lab, "web");
    assert_eq!(inside(&lab, &web, "cat /run/secrets/key /run/secrets/tls/again"), format!("{WORD}{WORD}"));
    assert_eq!(
        inside(&lab, &web, "stat -c \"%a %u %g\" /run/secrets/key /run/secrets/tls/again"),
        "440 1000 1001\n444 0 0\n"
    );
    assert_eq!(inside(&lab, &web, "cat /run/configs/app.conf"), SETTINGS);
    assert_eq!(inside(&lab, &web, "cat /run/motd"), SETTINGS);
    assert_eq!(
        inside(
            &lab,
            &web,
            "for d in /run/secrets /run/configs; do stat -f -c %T $d; touch $d/x 2>/dev/null; ls -A $d; done"
        ),
        "tmpfs\nkey\ntls\ntmpfs\napp.conf\n",
        "in memory, and it cannot be changed"
    );
    assert_eq!(inside(&lab, &web, "echo no >/run/motd || echo refused").trim(), "refused");
    // The host itself sees nothing of it.
    assert_eq!(
        lab.sh("node2", "ls -A /run/secrets /run/configs; cat /run/motd"),
        "/run/configs:\n\n/run/secrets:\nbefore\n"
    );
    for host in HOSTS {
        assert_eq!(lab.holding(host, WORD), Vec::<String>::new(), "{host}");
    }
    // Nor as numbers, which is how some formats write bytes.
    assert_eq!(lab.holding("node2", "115,101,99,114,101,116,45"), Vec::<String>::new());
    assert!(!lab.holding("node2", "app.conf").is_empty(), "it is the control that files are really searched");

    // A daemon that starts again without a manager has running tasks go on; with one it starts others.
    lab.do_lab(&["kill", "node1", "--daemon"]);
    lab.do_lab(&["kill", "node2", "--daemon"]);
    lab.do_lab(&["start", "node2"]);
    wait("the task is found again", || match lab.info("node2") {
        info if info["tasksRunning"] == 1 => Ok(()),
        info => Err(info.to_string()),
    });
    assert_eq!(inside(&lab, &web, "cat /run/secrets/key"), WORD);
    lab.do_lab(&["start", "node1"]);
    wait("the manager is back", || lab.try_heddle("node1", &["node", "ls"]).map(drop));
    assert_eq!(task(&lab, "web")["id"], web["id"]);
    lab.sh("node2", &format!("kill -9 {}", web["pid"]));
    let again = wait("another takes its place", || match lab.running("node1", "web")?.as_slice() {
        [one] if one["id"] != web["id"] => Ok(one.clone()),
        all => Err(format!("{all:?}")),
    });
    assert_eq!(inside(&lab, &again, "cat /run/secrets/key"), WORD);

    // Another word takes its place; then the first can go.
    let said = lab.refused("node1", &["secret", "rm", "key"]);
    assert_eq!(said, "heddle: secret key is used by service web: update or remove it first");
    piped(&lab, "another", "secret create key2 -").unwrap();
    let change = ["--secret-rm", "key", "--secret-add", "source=key2,target=key"];
    lab.heddle("node1", &[&["service", "update", "web"], &change[..]].concat());
    assert_eq!(inside(&lab, &task(&lab, "web"), "cd /run/secrets; ls; cat key"), "key\nanother");
    wait("the first goes", || lab.try_heddle("node1", &["secret", "rm", "key"]));
    let said = lab.refused("node1", &["service", "rollback", "web"]);
    assert!(said.starts_with("heddle: no secret is called"), "{said}");

    // Nothing is left on a host that leaves.
    lab.heddle("node1", &["service", "rm", "web"]);
    lab.heddle("node2", &["leave"]);
    lab.sh("node2", "test ! -e /run/secrets && test ! -e /run/configs");
}

#[test]
fn what_cannot_be_is_said_in_one_sentence() {
    if skipped() {
        return;
    }
    let lab = Lab::up("t-secrets-in", 2, 1);
    piped(&lab, WORD, "secret create key -").unwrap();
    let large = format!("{}/large", lab.state_dir("node1"));
    std::fs::write(Path::new(&large), vec![b'x'; (500 << 10) + 1]).unwrap();
    for (input, args, said) in [
        (
            "x",
            "secret create key -".to_owned(),
            "secret \"key\" exists already: one never changes, choose another name",
        ),
        ("x", "secret create ../key -".into(), "secret name \"../key\": use 1 to 64 of"),
        ("", "config create none -".into(), "config none is empty: there is nothing to keep"),
        ("", format!("secret create large {large}"), "a secret holds at most 512000 bytes, and these are more"),
        ("", "secret create other /nowhere".into(), "cannot read /nowhere"),
        ("", "secret inspect other".into(), "no secret is called \"other\""),
        ("", "config rm key".into(), "no config is called \"key\""),
    ] {
        let refused = piped(&lab, input, &args).unwrap_err();
        assert!(refused.contains(said), "{args}: {refused}");
    }
    for (flag, said) in [
        ("other", "no secret is called \"other\""),
        ("source=key,mode=0999", "mode \"0999\": use octal digits such as 0400, at most 0777"),
        ("source=key,target=../key", "use one such as /etc/app.conf, absolute"),
        ("source=key,target=/etc/hosts", "path \"/etc/hosts\" is Heddle's own: use another one"),
        ("source=key,owner=root", "use source=NAME, target=PATH, uid=N, gid=N, mode=0444"),
    ] {
        let refused = create(&lab, "web", &["--secret", flag]).unwrap_err();
        assert!(refused.contains(said), "{flag}: {refused}");
    }
    let twice = create(&lab, "web", &["--secret", "key", "--secret", "source=key,target=key"]).unwrap_err();
    assert!(twice.contains("/run/secrets/key is the place of two secrets or configs"), "{twice}");
    // Only the host knows whether a file is there.
    let nowhere = ["--secret", "source=key,target=/etc/nowhere.conf", "--timeout", "10"];
    let said = create(&lab, "web", &nowhere).unwrap_err();
    assert!(
        said.contains("/etc/nowhere.conf is not on this host: a secret or config lies over a file that is there"),
        "{said}"
    );
    lab.sh("node2", "test ! -e /etc/nowhere.conf && ln -s /proc/version /run/link && mkdir /run/dir");
    for (path, said) in [
        ("/run/link", "/run/link leads elsewhere on this host: path \"/proc/version\" is Heddle's own"),
        ("/run/dir", "/run/dir is no file on this host"),
    ] {
        let name = path.replace('/', "");
        let refused =
            create(&lab, &name, &["--secret", &format!("source=key,target={path}"), "--timeout", "10"]).unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
}
