//! Names: of services, in the DNS, in the registry.

use super::Bad;
use crate::config::{DnsName, Label};

/// The limits of RFC 1035 in their text form.
const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 253;

/// What SkyDNS takes for wildcards, as labels of a look-up.
const RESERVED: [&str; 2] = ["any", "*"];

/// One DNS label, lower-cased.
pub fn label(text: &str) -> Result<Label, Bad> {
    label_text(text).map(Label).map_err(|why| {
        Bad::new("a DNS label", why).hint("a label is 1 to 63 letters, digits and `-`, without a dot")
    })
}

/// A name of one or more labels, lower-cased, its final dot dropped.
pub fn dns_name(text: &str) -> Result<DnsName, Bad> {
    let bad =
        |why: String| Bad::new("a DNS name", why).hint("a name is written like `web.s.prod.example.com`");
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err(bad("it is an address".to_owned()));
    }
    if name.len() > NAME_MAX {
        return Err(bad(format!("it is longer than {NAME_MAX} characters")));
    }
    let labels = name.split('.').map(label_text).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    Ok(DnsName(labels.join(".")))
}

fn label_text(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if lower.is_empty() {
        return Err("a label is empty".to_owned());
    }
    if RESERVED.contains(&lower.as_str()) {
        return Err(format!("`{lower}` is a wildcard of SkyDNS"));
    }
    if let Some(c) = lower.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-')) {
        return Err(format!("`{c}` may not stand in a label"));
    }
    if lower.len() > LABEL_MAX {
        return Err(format!("a label is longer than {LABEL_MAX} characters"));
    }
    if lower.starts_with('-') || lower.ends_with('-') {
        return Err("a label may not begin or end with `-`".to_owned());
    }
    Ok(lower)
}

/// `name` as Docker spells it in the variables of a link: `my-db` is `MY_DB`.
pub fn docker_alias(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// The label that stands for a host of any name: lower-cased, what may not stand in a label made `-`, cut to length.
pub fn make_label(hostname: &str) -> Label {
    let safe: String = hostname
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let safe = safe.trim_start_matches('-');
    let safe = safe[..safe.len().min(LABEL_MAX)].trim_end_matches('-');
    if safe.is_empty() || RESERVED.contains(&safe) {
        Label(format!("host{safe}"))
    } else {
        Label(safe.to_owned())
    }
}

/// The name of a service or a link: it stands in logs, on command lines and between other names in lists.
pub fn service_name(text: &str) -> Result<String, Bad> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !text.chars().all(good)
        || text.len() > LABEL_MAX
    {
        return Err(Bad::new("a name", "it may not be the name of a service or a link")
            .hint("a name is 1 to 63 of `A-Z a-z 0-9 - _ .` and begins with a letter or a digit"));
    }
    Ok(text.to_owned())
}

/// The part of a key that comes before the reversed name, as `/skydns`.
pub fn registry_prefix(text: &str) -> Result<String, Bad> {
    let good = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match text.strip_prefix('/') {
        Some(parts) if parts.split('/').all(good) => Ok(text.to_owned()),
        Some(_) | None => Err(Bad::new("a prefix", "it must be `/` and a name, once or several times")
            .hint("a prefix is written like `/skydns`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_cased_and_lose_the_final_dot() {
        assert_eq!(dns_name("Web.S.example.COM.").map(|name| name.0), Ok("web.s.example.com".to_owned()));
        assert_eq!(dns_name("web").map(|name| name.0), Ok("web".to_owned()));
    }

    #[test]
    fn what_is_no_name() {
        let long = format!("{}.com", "a".repeat(64));
        let longer = vec!["a".repeat(50); 6].join(".");
        for text in [
            "", ".", "a..b", "a_b.c", "-a.b", "a-.b", "any.b", "ANY", "*.b", "ä.b", "10.0.0.1", "a b", &long,
            &longer,
        ] {
            assert!(dns_name(text).is_err(), "{text}");
        }
        assert!(label("a.b").is_err());
    }

    #[test]
    fn every_hostname_makes_a_label() {
        for (hostname, expected) in [
            ("Web_1.example.com", "web-1-example-com"),
            ("-x-", "x"),
            ("any", "hostany"),
            ("", "host"),
            ("日本", "host"),
        ] {
            assert_eq!(make_label(hostname).0, expected);
        }
        let cut = make_label(&format!("{}-tail", "a".repeat(62)));
        assert_eq!(label(&cut.0), Ok(cut));
    }

    #[test]
    fn a_prefix_can_not_climb() {
        assert!(registry_prefix("/skydns").is_ok());
        assert!(registry_prefix("/a/b").is_ok());
        for text in ["", "/", "skydns", "/skydns/", "//a", "/a/../b", "/a b"] {
            assert!(registry_prefix(text).is_err(), "{text}");
        }
    }
}
