//! What a user of the cluster has: key, certificate, root, and where managers are.

use anyhow::{Context, Result, bail};
use heddle_plumbing::tls;
use heddle_proto::v1;
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};
use tonic::transport::Channel;

const KEY: &str = "user.key";
const CERTIFICATE: &str = "user.crt";
const ROOTS: &str = "root.crt";
/// One ip:port a line.
const MANAGERS: &str = "managers";
const REACH_LIMIT: Duration = Duration::from_secs(1);

/// Makes the directory, which only its owner may read.
pub fn save(dir: &Path, key: &str, made: &v1::AddUserResponse) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)?;
    let managers: String = made.managers.iter().map(|m| format!("{}\n", m.addr)).collect();
    for (name, text) in [(KEY, key), (CERTIFICATE, &made.cert_pem), (ROOTS, &made.roots_pem), (MANAGERS, &managers)] {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(name))?.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// A channel to the first manager that answers.
pub fn dial(dir: &Path) -> Result<Channel> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (key, certificate, root, managers) = (read(KEY)?, read(CERTIFICATE)?, read(ROOTS)?, read(MANAGERS)?);
    let mut tried = Vec::new();
    for line in managers.split_whitespace() {
        let Ok(addr) = line.parse::<SocketAddr>() else {
            bail!("{}: {line:?} is not an address: use IP:PORT", dir.join(MANAGERS).display());
        };
        if TcpStream::connect_timeout(&addr, REACH_LIMIT).is_ok() {
            return tls::dial_user(addr, &key, &certificate, &root).with_context(|| {
                format!("the files in {} are not what `heddle cluster user add` made", dir.display())
            });
        }
        tried.push(line);
    }
    bail!("no manager can be reached at {}: see {}", tried.join(", "), dir.join(MANAGERS).display())
}
