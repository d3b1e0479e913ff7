//! registry: login, logout. Logins are kept where docker and podman find them too.

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Subcommand;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use heddle_model::{
    image::ImageName,
    login::{Login, Password},
};
use heddle_proto::v1;
use serde_json::{Map, Value, json};
use std::{
    env, fs,
    io::{self, IsTerminal, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Keep a login in docker's configuration, for --with-registry-auth; the password is read from the terminal or the standard input
    Login {
        /// HOST[:PORT], as it stands in the names of its images; docker.io
        registry: String,
        #[arg(short, long)]
        username: String,
        /// Read the password from the standard input, and ask nobody
        #[arg(long)]
        password_stdin: bool,
    },
    /// Forget it
    Logout { registry: String },
}

/// What docker calls its own registry there.
const DOCKER: &str = "https://index.docker.io/v1/";

/// As docker's configuration calls a registry.
fn key(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER } else { registry }
}

fn file() -> Result<PathBuf> {
    let dir = match env::var_os("DOCKER_CONFIG") {
        Some(dir) => PathBuf::from(dir),
        None => env::home_dir().ok_or_else(|| anyhow!("HOME is not set: set it, or DOCKER_CONFIG"))?.join(".docker"),
    };
    Ok(dir.join("config.json"))
}

/// This user's login at the registry of an image, to be shown to it.
pub fn login(image: &ImageName) -> Result<(String, Login)> {
    let registry = image.parts().registry;
    let none = || anyhow!("registry {registry}: there is no login for it, see `heddle registry login`");
    Ok((registry.to_owned(), find(registry)?.ok_or_else(none)?))
}

/// The same, where it is shown if there is one.
pub fn known(image: &ImageName) -> Result<Option<v1::RegistryLogin>> {
    let registry = image.parts().registry;
    let wire = |Login { username, password }| v1::RegistryLogin {
        registry: registry.to_owned(),
        username,
        password: password.0,
    };
    Ok(find(registry)?.map(wire))
}

fn find(registry: &str) -> Result<Option<Login>> {
    if !file().is_ok_and(|file| file.exists()) {
        return Ok(None);
    }
    match docker_credential::get_credential(key(registry)) {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(Login { username, password: Password(password) }))
        }
        Ok(DockerCredential::IdentityToken(_)) => {
            bail!("registry {registry}: its login is an identity token, use one with a user name and a password")
        }
        Err(CredentialRetrievalError::ConfigNotFound | CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        Err(error) => Err(anyhow!("registry {registry}: its login cannot be read: {error}")),
    }
}

pub fn run(command: RegistryCommand) -> Result<()> {
    let file = file()?;
    match command {
        RegistryCommand::Login { registry, username, password_stdin } => {
            named(&registry)?;
            let login = Login { username, password: Password(password(password_stdin)?) };
            login.check(&registry)?;
            let auth = BASE64_STANDARD.encode(format!("{}:{}", login.username, login.password.0));
            change(&file, |auths| drop(auths.insert(key(&registry).to_owned(), json!({ "auth": auth }))))?;
            println!("the login for {registry} is kept in {}, which is not encrypted", file.display());
        }
        RegistryCommand::Logout { registry } => {
            let mut was = false;
            if file.exists() {
                change(&file, |auths| was = auths.remove(key(&registry)).is_some())?;
            }
            if !was {
                bail!("registry {registry}: there is no login for it in {}", file.display());
            }
        }
    }
    Ok(())
}

/// Whether images can be of such a registry.
fn named(registry: &str) -> Result<()> {
    match format!("{registry}/x").parse::<ImageName>() {
        Ok(image) if image.parts().registry == registry => Ok(()),
        _ => bail!("registry {registry:?}: use HOST[:PORT] as it stands in the names of its images, or docker.io"),
    }
}

fn password(from_stdin: bool) -> Result<String> {
    if !from_stdin && io::stdin().is_terminal() {
        return rpassword::prompt_password("Password: ").context("cannot read the password");
    }
    let mut text = String::new();
    // More than any registry takes.
    io::stdin().take(64 << 10).read_to_string(&mut text).context("cannot read the password")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Changes the logins that are kept; all else in the file stays. Nobody sees half of it.
fn change(file: &Path, act: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    let broken = |why: String| anyhow!("{}: {why}; mend or remove it", file.display());
    let mut all: Map<String, Value> = match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let auths = all.entry("auths").or_insert_with(|| json!({}));
    act(auths.as_object_mut().ok_or_else(|| broken("auths is no object".into()))?);
    let text = serde_json::to_vec_pretty(&all)?;
    let written = || -> io::Result<()> {
        let dir = file.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut new = tempfile::NamedTempFile::new_in(dir)?;
        new.write_all(&text)?;
        new.as_file().sync_all()?;
        new.persist(file)?;
        Ok(())
    };
    written().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn logins_come_and_go_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/config.json");
        let keep = |name: &str| change(&file, |auths| drop(auths.insert(name.into(), json!({ "auth": "bWU6eA==" }))));
        keep("a:5000").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, r#"{"credsStore":"x","auths":{"b":{"auth":"YTpi"}}}"#).unwrap();
        keep("a:5000").unwrap();
        change(&file, |auths| drop(auths.remove("b"))).unwrap();
        let all: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(all, json!({ "credsStore": "x", "auths": { "a:5000": { "auth": "bWU6eA==" } } }));
        fs::write(&file, "[").unwrap();
        let said = keep("c").unwrap_err().to_string();
        assert!(said.starts_with(&file.display().to_string()) && said.ends_with("mend or remove it"), "{said}");
        assert_eq!(fs::read(&file).unwrap(), b"[");
    }

    #[test]
    fn registries_are_called_as_in_images() {
        for name in ["docker.io", "registry.example:5000", "localhost:5000"] {
            named(name).unwrap();
        }
        for name in ["", "https://registry.example", "registry.example/team", "nginx"] {
            let said = named(name).unwrap_err().to_string();
            assert!(said.contains("use HOST[:PORT]"), "{said}");
        }
    }
}
