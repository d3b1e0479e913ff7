//! Times that an operator names: `10m` ago, a date, or how long something takes.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use std::time::Duration;

/// Milliseconds since the Unix epoch.
pub fn parse(text: &str, now: Timestamp) -> Result<u64, String> {
    let millis = |t: Timestamp| u64::try_from(t.as_millisecond()).map_err(|_| "use a time after 1970".to_owned());
    if let Ok(seconds) = text.parse::<f64>()
        && seconds >= 0.0
    {
        return Ok((seconds * 1000.0) as u64);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return millis(at);
    }
    if let Ok(at) = text.parse::<DateTime>() {
        return at.to_zoned(TimeZone::system()).map_err(|e| e.to_string()).and_then(|z| millis(z.timestamp()));
    }
    match text.parse::<SignedDuration>() {
        Ok(before) if !before.is_negative() => now.checked_sub(before).map_err(|e| e.to_string()).and_then(millis),
        _ => Err(format!("time {text:?}: use a time ago such as 10m, or a date such as 2026-01-31T12:00:00Z")),
    }
}

pub fn now(text: &str) -> Result<u64, String> {
    parse(text, Timestamp::now())
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let span: SignedDuration = text.parse().map_err(|_| "use a time such as 500ms, 5s or 1m".to_owned())?;
    Duration::try_from(span).map_err(|_| "use a time that is not negative".into())
}

/// Such as `1h 30m`.
pub fn show_duration(millis: u64) -> String {
    format!("{:#}", SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX)))
}

/// RFC 3339, UTC.
pub fn show(millis: u64) -> String {
    i64::try_from(millis).ok().and_then(|m| Timestamp::from_millisecond(m).ok()).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert!(duration("5").is_err() && duration("-5s").is_err());
        assert_eq!([0, 600_000, 5_400_000].map(show_duration), ["0s", "10m", "1h 30m"]);
    }

    #[test]
    fn a_time_is_a_date_a_number_or_so_long_ago() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (text, want) in [
            ("10m", Some(999_400_000)),
            ("1h30m", Some(994_600_000)),
            ("12.5", Some(12_500)),
            ("1970-01-01T00:01:00Z", Some(60_000)),
            ("yesterday", None),
            ("-5m", None),
            ("", None),
        ] {
            assert_eq!(parse(text, now).ok(), want, "{text}");
        }
        assert_eq!(show(1_500), "1970-01-01T00:00:01.5Z");
    }
}
