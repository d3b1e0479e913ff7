//! Hosts of a lab that are virtual machines: what they are made of, and commands in them.

use super::{
    host, net,
    state::{Host, Lab, Machines},
};
use anyhow::{Context, Result, bail};
use heddle_vm::{
    Cache, PROGRAM,
    channel::exec::{self, Request},
    host::{self as vm, Image, Spec},
    programs,
};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// From its start until it has done the first command.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What there is to boot from, or one sentence about what is missing. Slow only when something has changed.
pub fn image(machines: &Machines) -> Result<Image> {
    programs::check(&vm::PROGRAMS)?;
    let cache = Cache::at(&machines.cache)?;
    Image::prepare(&cache, &super::this_program()?, &machines.tools)
        .context("cannot make what virtual machines boot from")
}

/// Its cable, its disk if it has none yet, and the machine, which boots yet when this returns.
pub async fn spawn(lab: &Lab, machines: &Machines, image: &Image, name: &str, number: u8) -> Result<Host> {
    net::make_tap(lab, name).await?;
    let disk = lab.disk(name);
    if !disk.exists() {
        disk.parent().map(std::fs::create_dir_all).transpose()?;
        vm::make_disk(&disk)?;
    }
    let spec = Spec {
        kernel: image.kernel.clone(),
        initramfs: image.initramfs.clone(),
        memory_mib: machines.memory_mib,
        disk,
        tap: name.to_owned(),
        mac: format!("52:54:00:77:00:{number:02x}"),
        folder: lab.run_dir().join(name),
    };
    host::spawn_machine(lab, name, number, spec)
}

/// Waits until it has booted and gives it what makes it this host: name, addresses, disk.
pub async fn set_up(lab: &Lab, host: &Host) -> Result<()> {
    let folder = host.machine.clone().with_context(|| format!("host {} is no virtual machine", host.name))?;
    let script = script(host, &lab.state_dir(&host.name), &super::this_program()?);
    let name = host.name.clone();
    let done = tokio::task::spawn_blocking(move || -> Result<()> {
        let mut said = Vec::new();
        let request = Request {
            command: ["sh", "-c", &script].map(str::to_owned).into(),
            directory: "/".into(),
            background: None,
        };
        let socket = vm::exec_socket(&folder);
        let answer = exec::ask(&socket, &request, io::empty(), &mut io::sink(), &mut said, Some(BOOT_LIMIT));
        match answer.with_context(|| format!("host {name} did not boot\n{}", vm::last_words(&folder)))? {
            0 => Ok(()),
            _ => bail!("host {name} cannot be set up: {}", String::from_utf8_lossy(&said).trim()),
        }
    });
    done.await?
}

fn script(host: &Host, state: &Path, program: &Path) -> String {
    let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let folder = program.parent().unwrap_or(Path::new("/"));
    let mut lines = vec![
        "set -e".to_owned(),
        format!("hostname {}", host.name),
        "ip link set eth0 up".into(),
        format!("ip address add {}/24 dev eth0", host.v4()),
        format!("ip address add {}/64 dev eth0 nodad", host.v6()),
        format!("mkdir -p {}", quote(state)),
        format!("mount -t ext4 /dev/vda {}", quote(state)),
    ];
    if program != Path::new(PROGRAM) {
        // Where it is on this machine, as hosts that are namespaces have it.
        lines.push(format!("mkdir -p {}", quote(folder)));
        lines.push(format!("ln -sf {PROGRAM} {}", quote(program)));
    }
    lines.join("\n")
}

/// Runs a command in the machine with this process's standard streams.
pub fn exec(folder: &Path, command: &[String], background: Option<&Path>) -> Result<i32> {
    let request = Request {
        command: command.to_vec(),
        directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        background: background.map(Path::to_owned),
    };
    exec::ask(&vm::exec_socket(folder), &request, io::stdin(), &mut io::stdout(), &mut io::stderr(), None)
}

/// The daemon's pid in the machine.
pub fn daemon_pid(folder: &Path) -> Result<Option<i32>> {
    let text = output(folder, &["heddle", "lab-daemon"])?;
    Ok(text.trim().parse().ok())
}

/// Kills a process in the machine and waits until it is gone.
pub fn kill(folder: &Path, pid: i32) -> Result<()> {
    let gone = format!("kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do usleep 5000; done");
    output(folder, &["sh", "-c", &gone]).map(drop)
}

fn output(folder: &Path, command: &[&str]) -> Result<String> {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    let request = Request { command, directory: "/".into(), background: None };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    match exec::ask(&vm::exec_socket(folder), &request, io::empty(), &mut out, &mut err, Some(BOOT_LIMIT))? {
        0 => Ok(String::from_utf8_lossy(&out).into_owned()),
        _ => bail!("{}", String::from_utf8_lossy(&err).trim()),
    }
}
