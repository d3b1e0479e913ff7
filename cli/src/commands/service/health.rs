//! The flags of health checks.

use super::settings::set;
use crate::commands::moment;
use anyhow::{Result, bail};
use clap::Args;
use heddle_model::{
    health::{HealthCheck, Probe},
    net::Port,
    service::TaskSpec,
};
use std::time::Duration;

/// What is absent stays as it is.
#[derive(Debug, Args)]
pub struct HealthFlags {
    /// A command of a shell that is run in each task: exit code 0 is healthy. A task is not running before its first success, and
    /// is replaced when it is unhealthy
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["health_http", "health_tcp"])]
    health_cmd: Option<String>,
    /// The same with a GET of a path, or of /, at a port of each task: 200 to 399 is healthy
    #[arg(long, value_name = "PORT[/PATH]", value_parser = http, conflicts_with = "health_tcp")]
    health_http: Option<Probe>,
    /// The same with a TCP port of each task: a connection is healthy
    #[arg(long, value_name = "PORT")]
    health_tcp: Option<Port>,
    /// Between one check and the next, 100ms to 24h [30s at first]
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    health_interval: Option<Duration>,
    /// A check that takes longer has failed, and is killed [30s at first]
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    health_timeout: Option<Duration>,
    /// Failures in a row that make a task unhealthy [3 at first]
    #[arg(long, value_name = "COUNT")]
    health_retries: Option<u32>,
    /// After the start of a task, in which failures do not count until a check has succeeded; at least the interval [0s at first]
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    health_start_period: Option<Duration>,
    /// Between checks whose failure does not count; at most the interval [5s at first]
    #[arg(long, value_name = "TIME", value_parser = moment::duration)]
    health_start_interval: Option<Duration>,
    /// Do not check the health of tasks, not as their image says either; =false: as it says, again
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", conflicts_with_all = [
        "health_cmd", "health_http", "health_tcp", "health_interval", "health_timeout", "health_retries", "health_start_period",
        "health_start_interval",
    ])]
    no_healthcheck: Option<bool>,
}

fn http(text: &str) -> Result<Probe, String> {
    let (port, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let port = port.parse::<Port>().map_err(|e| format!("{e}: use PORT or PORT/PATH, such as 80/healthz"))?;
    Ok(Probe::Http { port, path: if path.is_empty() { "/".into() } else { path.into() } })
}

impl HealthFlags {
    fn probe(&self) -> Option<Probe> {
        let command = self.health_cmd.clone().map(Probe::Command);
        command.or_else(|| self.health_http.clone()).or(self.health_tcp.map(Probe::Tcp))
    }

    /// The first flag that says how, but not what, to check.
    fn detail(&self) -> Option<&'static str> {
        let given = [
            ("--health-interval", self.health_interval.is_some()),
            ("--health-timeout", self.health_timeout.is_some()),
            ("--health-retries", self.health_retries.is_some()),
            ("--health-start-period", self.health_start_period.is_some()),
            ("--health-start-interval", self.health_start_interval.is_some()),
        ];
        given.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }

    pub fn apply(&self, task: &mut TaskSpec) -> Result<()> {
        let TaskSpec { health, no_healthcheck, .. } = task;
        set(no_healthcheck, &self.no_healthcheck);
        if *no_healthcheck {
            *health = None;
        }
        if let Some(probe) = self.probe() {
            *no_healthcheck = false;
            match health {
                Some(check) => check.probe = probe,
                None => *health = Some(HealthCheck::new(probe)),
            }
        }
        let Some(check) = health else {
            return match self.detail() {
                Some(flag) => {
                    bail!(
                        "{flag}: the service has no health check of its own, give --health-cmd, --health-http or --health-tcp, too"
                    )
                }
                None => Ok(()),
            };
        };
        set(&mut check.interval, &self.health_interval);
        set(&mut check.timeout, &self.health_timeout);
        set(&mut check.retries, &self.health_retries);
        set(&mut check.start_period, &self.health_start_period);
        set(&mut check.start_interval, &self.health_start_interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        health: HealthFlags,
    }

    fn applied(health: Option<HealthCheck>, line: &[&str]) -> Result<Option<HealthCheck>> {
        Ok(task(TaskSpec { health, ..TaskSpec::default() }, line)?.health)
    }

    fn task(mut task: TaskSpec, line: &[&str]) -> Result<TaskSpec> {
        let line = <Line as clap::Parser>::try_parse_from([&["x"], line].concat())?;
        line.health.apply(&mut task)?;
        Ok(task)
    }

    fn port(n: u16) -> Port {
        Port::try_from(n).unwrap()
    }

    fn path(n: u16, path: &str) -> Probe {
        Probe::Http { port: port(n), path: path.into() }
    }

    #[test]
    fn each_kind_has_a_flag_and_the_rest_dockers_defaults() {
        for (line, probe) in [
            (["--health-cmd", "test -e /tmp/ok"], Probe::Command("test -e /tmp/ok".into())),
            (["--health-http", "80"], path(80, "/")),
            (["--health-http", "80/a/b?c=/d"], path(80, "/a/b?c=/d")),
            (["--health-tcp", "5432"], Probe::Tcp(port(5432))),
        ] {
            assert_eq!(applied(None, &line).unwrap(), Some(HealthCheck::new(probe)), "{line:?}");
        }
        assert_eq!(applied(None, &[]).unwrap(), None);
    }

    #[test]
    fn single_values_the_kind_or_all_can_change() {
        let before = HealthCheck { retries: 9, ..HealthCheck::new(Probe::Tcp(port(80))) };
        let changed = |line: &[&str]| applied(Some(before.clone()), line).unwrap();
        assert_eq!(changed(&[]).as_ref(), Some(&before));
        let timeout = Duration::from_millis(200);
        assert_eq!(changed(&["--health-timeout", "200ms"]), Some(HealthCheck { timeout, ..before.clone() }));
        assert_eq!(changed(&["--health-http", "81/x"]), Some(HealthCheck { probe: path(81, "/x"), ..before.clone() }));
        assert_eq!(changed(&["--no-healthcheck"]), None);
    }

    #[test]
    fn no_check_is_not_the_same_as_none_that_is_said() {
        let said = |before: bool, line: &[&str]| {
            let after = task(TaskSpec { no_healthcheck: before, ..TaskSpec::default() }, line).unwrap();
            (after.no_healthcheck, after.health.is_some())
        };
        assert_eq!(said(false, &[]), (false, false));
        assert_eq!(said(false, &["--no-healthcheck"]), (true, false));
        assert_eq!(said(true, &[]), (true, false), "it stays so");
        assert_eq!(said(true, &["--health-cmd", "true"]), (false, true));
        assert_eq!(said(true, &["--no-healthcheck=false"]), (false, false));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for flag in ["--health-interval", "--health-timeout", "--health-start-period", "--health-start-interval"] {
            let said = applied(None, &[flag, "1s"]).unwrap_err().to_string();
            let want =
                "the service has no health check of its own, give --health-cmd, --health-http or --health-tcp, too";
            assert_eq!(said, format!("{flag}: {want}"));
        }
        for line in [
            &["--health-cmd", "x", "--health-tcp", "80"][..],
            &["--health-http", "80", "--health-tcp", "80"],
            &["--no-healthcheck", "--health-retries", "2"],
            &["--health-tcp", "0"],
            &["--health-http", "x/y"],
            &["--health-http", "/y"],
            &["--health-cmd", "x", "--health-interval", "5"],
            &["--health-cmd", "x", "--health-retries", "-1"],
        ] {
            assert!(applied(None, line).is_err(), "{line:?}");
        }
    }
}
