//! The health check that an image comes with.

use crate::image::{Program, or_default};
use heddle_model::health::{HealthCheck, Probe};
use serde::Deserialize;
use std::time::Duration;

/// As docker's builders write it: times in nanoseconds, and zero where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `CMD` and a program with its arguments, `CMD-SHELL` and a command of a shell, or `NONE`.
    #[serde(deserialize_with = "or_default")]
    test: Vec<String>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

/// Zero means docker's. What is too short or too long for a host is the nearest that is not.
fn time(nanos: i64, dockers: Duration) -> Duration {
    match u64::try_from(nanos) {
        Ok(0) | Err(_) => dockers,
        Ok(nanos) => Duration::from_nanos(nanos).clamp(HealthCheck::SHORTEST, HealthCheck::LONGEST),
    }
}

impl Program {
    /// None: it has none, or one of a kind that is not known.
    pub fn health_check(&self) -> Option<HealthCheck> {
        let said = &self.healthcheck;
        let probe = match said.test.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["CMD", _, ..] => Probe::Exec(said.test[1..].to_vec()),
            ["CMD-SHELL", command] if self.shell.is_empty() => Probe::Command((*command).to_owned()),
            ["CMD-SHELL", command] => Probe::Exec(self.shell.iter().cloned().chain([(*command).to_owned()]).collect()),
            _ => return None,
        };
        let dockers = HealthCheck::new(probe);
        let check = HealthCheck {
            interval: time(said.interval, dockers.interval),
            timeout: time(said.timeout, dockers.timeout),
            start_period: time(said.start_period, dockers.start_period),
            start_interval: time(said.start_interval, dockers.start_interval),
            retries: match u32::try_from(said.retries) {
                Ok(0) | Err(_) => dockers.retries,
                Ok(some) => some.min(HealthCheck::MOST_RETRIES),
            },
            probe: dockers.probe,
        };
        check.check().is_ok().then_some(check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(program: &str) -> Option<HealthCheck> {
        serde_json::from_str::<Program>(program).unwrap().health_check()
    }

    #[test]
    fn each_form_is_a_probe_and_what_is_not_said_dockers() {
        let exec = |args: &[&str]| Some(HealthCheck::new(Probe::Exec(args.iter().map(|&a| a.into()).collect())));
        for (program, want) in [
            (r#"{"Healthcheck":{"Test":["CMD","curl","-f","x"]}}"#, exec(&["curl", "-f", "x"])),
            (
                r#"{"Healthcheck":{"Test":["CMD-SHELL","a | b"]}}"#,
                Some(HealthCheck::new(Probe::Command("a | b".into()))),
            ),
            (
                r#"{"Healthcheck":{"Test":["CMD-SHELL","a"]},"Shell":["/bin/ash","-ec"]}"#,
                exec(&["/bin/ash", "-ec", "a"]),
            ),
            (r#"{"Healthcheck":{"Test":["NONE"]}}"#, None),
            (r#"{"Healthcheck":{"Test":["CMD"]}}"#, None),
            (r#"{"Healthcheck":{"Test":["CMD-SHELL",""]}}"#, None),
            (r#"{"Healthcheck":{"Test":["HTTP","x"]}}"#, None),
            (r#"{"Healthcheck":{"Test":null}}"#, None),
            (r#"{"Healthcheck":null}"#, None),
            ("{}", None),
        ] {
            assert_eq!(of(program), want, "{program}");
        }
    }

    #[test]
    fn times_are_nanoseconds_and_such_as_a_host_takes() {
        let said = r#"{"Healthcheck":{"Test":["CMD","x"],"Interval":2000000000,"Timeout":1,"StartPeriod":5000000000,
            "StartInterval":-1,"Retries":7}}"#;
        let check = of(said).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!((check.interval, check.timeout), (seconds(2), HealthCheck::SHORTEST));
        assert_eq!((check.start_period, check.start_interval, check.retries), (seconds(5), seconds(5), 7));
        let longest =
            of(r#"{"Healthcheck":{"Test":["CMD","x"],"Interval":9223372036854775807,"Retries":5000}}"#).unwrap();
        assert_eq!((longest.interval, longest.retries), (HealthCheck::LONGEST, HealthCheck::MOST_RETRIES));
    }
}
