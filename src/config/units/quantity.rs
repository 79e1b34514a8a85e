//! How long, how much, and which signal.

use std::str::FromStr as _;
use std::time::Duration;

use super::Bad;
use crate::config::{Resource, Signal};

/// Longer is a slip of the pen, and would overflow the arithmetic of instants some day.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// `1h 30m`, `10s`, `100ms`.
pub fn duration(text: &str) -> Result<Duration, Bad> {
    let bad = |why: String| {
        Bad::new("a duration", why).hint("a duration is written like `100ms`, `5s` or `1h 30m`")
    };
    let duration = humantime::parse_duration(text).map_err(|error| bad(error.to_string()))?;
    if duration > LONGEST {
        return Err(bad("it is longer than ten years".to_owned()));
    }
    Ok(duration)
}

/// A duration that is not zero.
pub fn positive_duration(text: &str) -> Result<Duration, Bad> {
    let duration = duration(text)?;
    if duration.is_zero() {
        return Err(Bad::new("a duration that can be used here", "it is zero"));
    }
    Ok(duration)
}

/// A duration, or `never` (`None`).
pub fn duration_or_never(text: &str) -> Result<Option<Duration>, Bad> {
    if text == "never" { Ok(None) } else { duration(text).map(Some) }
}

/// The value of a resource limit: a number, `unlimited` (`None`), and where the resource counts bytes also `64M` or `64MiB`.
pub fn limit(text: &str, resource: Resource) -> Result<Option<u64>, Bad> {
    if text == "unlimited" {
        return Ok(None);
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let (factor, hint) = match counts_bytes(resource) {
        true => (
            binary_factor(&text[digits.len()..]),
            "a size is written like `65536`, `64K`, `64MiB` or `unlimited`",
        ),
        false => ((digits == text).then_some(1), "a limit is a number or `unlimited`"),
    };
    let number =
        digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    let bad = || Bad::new("a limit", "it is neither a number nor `unlimited`").hint(hint);
    limit_number(number.ok_or_else(bad)?)
}

/// The largest number stands for "unlimited" in setrlimit(2), so it is not taken for a number here.
pub fn limit_number(number: u64) -> Result<Option<u64>, Bad> {
    if number == u64::MAX {
        return Err(Bad::new("a limit", "it is too large").hint("write `unlimited`"));
    }
    Ok(Some(number))
}

fn binary_factor(suffix: &str) -> Option<u64> {
    match suffix.trim_start() {
        "" => Some(1),
        "K" | "KiB" => Some(1 << 10),
        "M" | "MiB" => Some(1 << 20),
        "G" | "GiB" => Some(1 << 30),
        "T" | "TiB" => Some(1 << 40),
        _ => None,
    }
}

fn counts_bytes(resource: Resource) -> bool {
    use Resource::*;
    match resource {
        As | Core | Data | Fsize | Memlock | Msgqueue | Stack => true,
        Cpu | Nice | Nofile | Nproc | Rtprio | Rttime | Sigpending => false,
    }
}

/// `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`, `RTMAX-1`.
pub fn signal(text: &str) -> Result<Signal, Bad> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let offset =
        |digits: &str| digits.parse::<u8>().ok().map(i32::from).filter(|offset| *offset <= last - first);
    let number = if name == "RTMIN" {
        Some(first)
    } else if name == "RTMAX" {
        Some(last)
    } else if let Some(digits) = name.strip_prefix("RTMIN+") {
        offset(digits).map(|offset| first + offset)
    } else if let Some(digits) = name.strip_prefix("RTMAX-") {
        offset(digits).map(|offset| last - offset)
    } else if let Ok(number) = upper.parse::<i32>() {
        Some(number)
    } else {
        nix::sys::signal::Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32)
    };
    match number {
        Some(number) if (1..=last).contains(&number) => Ok(Signal(number)),
        Some(_) => Err(Bad::new("a signal", format!("signals are numbered 1 to {last}"))),
        None => Err(Bad::new("a signal", "there is no signal of that name")
            .hint("a signal is written like `SIGTERM`, `term`, `15` or `RTMIN+3`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_an_end() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("5").is_err());
        assert!(duration("").is_err());
        assert!(duration("never").is_err());
        assert!(duration("20000000000000000000000y").is_err());
        assert!(duration("11y").is_err());
        assert_eq!(duration_or_never("never"), Ok(None));
    }

    #[test]
    fn signals_by_any_of_their_names() {
        for name in ["15", "TERM", "sigterm", "SigTerm", "SIGTERM"] {
            assert_eq!(signal(name), Ok(Signal(15)), "{name}");
        }
        assert_eq!(signal("RTMIN+3"), Ok(Signal(libc::SIGRTMIN() + 3)));
        assert_eq!(signal("sigrtmax-1"), Ok(Signal(libc::SIGRTMAX() - 1)));
        for name in ["", "0", "65", "-1", "SIG", "TERMINATE", "RTMIN+-1", "RTMIN+31", "RTMAX-99999999999"] {
            assert!(signal(name).is_err(), "{name}");
        }
    }

    #[test]
    fn limits_are_numbers_and_sizes_may_carry_units() {
        assert_eq!(limit("1024", Resource::Nofile), Ok(Some(1024)));
        assert_eq!(limit("unlimited", Resource::Nofile), Ok(None));
        assert_eq!(limit("64MiB", Resource::Memlock), Ok(Some(64 << 20)));
        assert_eq!(limit("64K", Resource::Stack), Ok(Some(64 << 10)));
        for (text, resource) in [
            ("64K", Resource::Nofile),
            ("64MB", Resource::Stack),
            ("", Resource::Stack),
            ("K", Resource::Stack),
            ("99999999999T", Resource::Stack),
            ("18446744073709551615", Resource::Nofile),
        ] {
            assert!(limit(text, resource).is_err(), "{text}");
        }
    }
}
