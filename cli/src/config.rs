//! The daemon's settings in a file: what its flags are where neither the command line nor the environment says so.
//!
//! Keys are the long names of `heddle daemon`'s flags, so a new flag needs nothing here.

use crate::args::Cli;
use clap::{ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use std::{ffi::OsString, fs, io, path::Path};

/// Names another file.
const VARIABLE: &str = "HEDDLE_CONFIG";
const FILE: &str = "/etc/heddle/config.toml";
const DAEMON: &str = "daemon";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}")]
    Read { path: String, source: io::Error },
    #[error("{path} is not TOML: {reason}")]
    Form { path: String, reason: String },
    #[error("{path}: {key:?} is unknown: use {known}")]
    Key { path: String, key: String, known: String },
    #[error("{path}: {key}: {reason}")]
    Value { path: String, key: String, reason: String },
}

/// The command line, with the file's settings where it runs the daemon.
pub fn parse(args: Vec<OsString>) -> Result<Cli, ConfigError> {
    let command = Cli::command().args_override_self(true);
    let matches = command.clone().get_matches_from(&args);
    let matches = if matches.subcommand_name() == Some(DAEMON) {
        command.clone().get_matches_from(with(&args, &settings(&command)?))
    } else {
        matches
    };
    Ok(from(&matches))
}

fn from(matches: &ArgMatches) -> Cli {
    Cli::from_arg_matches(matches).unwrap_or_else(|e| e.exit())
}

/// What the file says, as flags, save what the environment says.
fn settings(command: &Command) -> Result<Vec<OsString>, ConfigError> {
    let named = std::env::var_os(VARIABLE);
    let path = named.as_deref().unwrap_or(FILE.as_ref());
    match fs::read_to_string(path) {
        Ok(text) => flags(command, Path::new(path), &text, |name| std::env::var_os(name).is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(Vec::new()),
        Err(source) => Err(ConfigError::Read { path: Path::new(path).display().to_string(), source }),
    }
}

pub(crate) fn flags(
    command: &Command,
    path: &Path,
    text: &str,
    in_environment: impl Fn(&std::ffi::OsStr) -> bool,
) -> Result<Vec<OsString>, ConfigError> {
    let path = path.display().to_string();
    let form = |e: toml::de::Error| ConfigError::Form { path: path.clone(), reason: e.message().to_owned() };
    let table: toml::Table = toml::from_str(text).map_err(form)?;
    let daemon = command.find_subcommand(DAEMON);
    let known: Vec<_> = daemon.iter().flat_map(|d| d.get_arguments()).filter(|a| a.get_long().is_some()).collect();
    let mut out = Vec::new();
    // A flag that may be given several times has a list here.
    let several = |key: &str| {
        let arg = known.iter().find(|a| a.get_long() == Some(key));
        arg.is_some_and(|a| matches!(a.get_action(), ArgAction::Append))
    };
    let each = table.into_iter().flat_map(|(key, value)| match value {
        toml::Value::Array(values) if several(&key) => values.into_iter().map(|value| (key.clone(), value)).collect(),
        value => vec![(key, value)],
    });
    for (key, value) in each {
        let Some(arg) = known.iter().find(|a| a.get_long() == Some(key.as_str())) else {
            let known = known.iter().filter_map(|a| a.get_long()).collect::<Vec<_>>().join(", ");
            return Err(ConfigError::Key { path, key, known });
        };
        let takes_value = arg.get_action().takes_values();
        let flag = match (&value, takes_value) {
            (toml::Value::String(text), true) => format!("--{key}={text}"),
            (toml::Value::Integer(number), true) => format!("--{key}={number}"),
            (toml::Value::Boolean(true), false) => format!("--{key}"),
            (toml::Value::Boolean(false), false) => continue,
            (_, takes_value) => {
                let reason =
                    format!("{value} cannot be used: use {}", if takes_value { "a text" } else { "true or false" });
                return Err(ConfigError::Value { path, key, reason });
            }
        };
        let alone = ["heddle", DAEMON, &flag];
        if let Err(e) = command.clone().try_get_matches_from(alone) {
            let said = e.to_string();
            let first = said.lines().next().unwrap_or_default();
            let reason = first.trim_start_matches("error: ").to_owned();
            let hint = said.lines().map(str::trim).find(|l| l.starts_with("[possible values")).unwrap_or_default();
            return Err(ConfigError::Value { path, key, reason: format!("{reason} {hint}").trim_end().to_owned() });
        }
        if !arg.get_env().is_some_and(&in_environment) {
            out.push(flag.into());
        }
    }
    Ok(out)
}

/// Before the flags that were given, which override them.
fn with(args: &[OsString], settings: &[OsString]) -> Vec<OsString> {
    let at = args.iter().skip(1).position(|a| a == DAEMON).map_or(args.len(), |at| at + 2);
    [&args[..at], settings, &args[at..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command as Verb;

    fn daemon(file: &str, args: &[&str], environment: &[&str]) -> Result<crate::args::DaemonArgs, String> {
        let command = Cli::command().args_override_self(true);
        let set = |name: &std::ffi::OsStr| environment.iter().any(|e| name == *e);
        let settings = flags(&command, Path::new("config.toml"), file, set).map_err(|e| e.to_string())?;
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let matches = command.try_get_matches_from(with(&args, &settings)).map_err(|e| e.to_string())?;
        match from(&matches).command {
            Verb::Daemon(args) => Ok(args),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn what_may_be_given_several_times_has_a_list() {
        let file = "label = [\"disk=ssd\", \"rack=7\"]\ngeneric-resource = \"gpu=2\"\n";
        let got = daemon(file, &["heddle", "daemon"], &[]).unwrap();
        assert_eq!(got.label, [("disk", "ssd"), ("rack", "7")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(got.generic_resource, [("gpu".to_owned(), 2)]);
        for (file, part) in [
            ("log = [\"info\", \"debug\"]", "log: [\"info\", \"debug\"] cannot be used"),
            ("lable = []", "\"lable\" is unknown"),
            ("label = [\"disk\"]", "use KEY=VALUE"),
        ] {
            let said = daemon(file, &["heddle", "daemon"], &[]).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn the_command_line_is_over_the_file() {
        let file = "log = \"debug\"\nlog-json = true\nstate-dir = \"/srv/heddle\"\n";
        let got = daemon(file, &["heddle", "daemon"], &[]).unwrap();
        assert_eq!((got.log.as_str(), got.log_json), ("debug", true));
        assert_eq!(got.state_dir, Path::new("/srv/heddle"));
        let got = daemon(file, &["heddle", "--socket", "/tmp/s", "daemon", "--log", "warn"], &[]).unwrap();
        assert_eq!((got.log.as_str(), got.log_json), ("warn", true));
        let got = daemon(file, &["heddle", "daemon"], &["HEDDLE_LOG"]).unwrap();
        assert!(got.log.starts_with("info"), "the environment is over the file: {}", got.log);
        assert!(!daemon("log-json = false", &["heddle", "daemon"], &[]).unwrap().log_json);
        assert!(!daemon("", &["heddle", "daemon"], &[]).unwrap().log_json);
    }

    #[test]
    fn what_cannot_be_is_said_by_file_and_key() {
        for (file, said) in [
            ("log = ", "config.toml is not TOML: "),
            ("loud = true", "config.toml: \"loud\" is unknown: use state-dir, "),
            ("log = true", "config.toml: log: true cannot be used: use a text"),
            ("log-json = \"yes\"", "config.toml: log-json: \"yes\" cannot be used: use true or false"),
        ] {
            let error = daemon(file, &["heddle", "daemon"], &[]).unwrap_err();
            assert!(error.starts_with(said), "{file}: {error}");
        }
    }
}
