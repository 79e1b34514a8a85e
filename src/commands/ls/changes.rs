//! What has changed from one listing of the registry to the next. Pure: no clock, no terminal, no registry. Called by
//! `watch` and `screen`.

use std::collections::BTreeMap;

use crate::config::HostPort;
use crate::registry::{Fields, Listed};

use super::{json_line, plain};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Added,
    Removed,
    Changed,
}

/// One entry that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    /// As it is now; of one that is gone, as it was.
    pub entry: Listed,
    /// Of one that says something else now.
    before: Option<Listed>,
}

/// What was there when the registry was last read.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<String, Listed>);

impl Known {
    /// Takes in a listing; gives what is new in it, by key.
    pub fn take(&mut self, listed: Vec<Listed>) -> Vec<Change> {
        let now: BTreeMap<String, Listed> = listed.into_iter().map(|one| (one.key.clone(), one)).collect();
        let mut before = std::mem::replace(&mut self.0, now);
        let mut changes = Vec::new();
        for (key, entry) in &self.0 {
            let (kind, before) = match before.remove(key) {
                None => (Kind::Added, None),
                // How long it stays is said by each renewal.
                Some(same) if same.record == entry.record => continue,
                Some(other) => (Kind::Changed, Some(other)),
            };
            changes.push(Change { kind, entry: entry.clone(), before });
        }
        let gone = before.into_values();
        changes.extend(gone.map(|entry| Change { kind: Kind::Removed, entry, before: None }));
        changes.sort_by(|a, b| a.entry.key.cmp(&b.entry.key));
        changes
    }

    /// By key.
    pub fn all(&self) -> Vec<Listed> {
        self.0.values().cloned().collect()
    }
}

impl Kind {
    pub fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Changed => '~',
        }
    }
}

impl Change {
    /// One line for people.
    pub fn line(&self, time: &str) -> String {
        let Listed { name, instance, record, .. } = &self.entry;
        let what = match (record, self.before.as_ref().map(|before| &before.record)) {
            (Ok(now), Some(Ok(before))) => differences(now, before),
            (Ok(now), Some(Err(_)) | None) => at(now),
            (Err(reason), _) => format!("no record: {reason}"),
        };
        let [name, instance, what] = [name, instance, &what].map(|text| plain(text));
        format!("{time} {} {name} {instance} {what}\n", self.kind.sign())
    }

    /// One line for programs.
    pub fn json(&self, time: &str) -> String {
        let change = match self.kind {
            Kind::Added => "added",
            Kind::Removed => "removed",
            Kind::Changed => "changed",
        };
        json_line(&self.entry, Some(time), Some(change))
    }
}

fn at(fields: &Fields) -> String {
    match u16::try_from(fields.port) {
        Ok(port) => HostPort { host: fields.host.clone(), port }.to_string(),
        Err(_) => format!("{} port {}", fields.host, fields.port),
    }
}

fn differences(now: &Fields, before: &Fields) -> String {
    let mut text = at(now);
    if text != at(before) {
        text += &format!(" (was {})", at(before));
    }
    let numbers = [
        ("priority", now.priority, before.priority),
        ("weight", now.weight, before.weight),
        ("dns ttl", now.ttl.cast_signed(), before.ttl.cast_signed()),
    ];
    for (name, now, before) in numbers.into_iter().filter(|(_, now, before)| now != before) {
        text += &format!(", {name} {now} (was {before})");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::NoRecord;

    fn entry(instance: &str, host: &str, left: u64) -> Listed {
        let record = Fields { host: host.to_owned(), port: 80, ttl: 5, ..Fields::default() };
        Listed {
            key: format!("/skydns/web/{instance}"),
            name: "web".to_owned(),
            instance: instance.to_owned(),
            ttl_left: Some(Duration::from_secs(left)),
            record: Ok(record),
        }
    }

    fn lines(known: &mut Known, listed: &[Listed]) -> Vec<String> {
        known.take(listed.to_vec()).iter().map(|change| change.line("T")).collect()
    }

    #[test]
    fn who_comes_goes_and_changes_is_a_line_and_a_renewal_is_none() {
        let mut known = Known::default();
        let (a, b) = (entry("a", "10.0.0.1", 9), entry("b", "::1", 9));
        assert_eq!(
            lines(&mut known, &[b.clone(), a.clone()]),
            ["T + web a 10.0.0.1:80\n", "T + web b [::1]:80\n"]
        );
        assert!(lines(&mut known, &[entry("a", "10.0.0.1", 5), b.clone()]).is_empty());
        let mut moved = entry("a", "10.0.0.2", 9);
        moved.record.as_mut().expect("a record").weight = 7;
        assert_eq!(
            lines(&mut known, std::slice::from_ref(&moved)),
            ["T ~ web a 10.0.0.2:80 (was 10.0.0.1:80), weight 7 (was 100)\n", "T - web b [::1]:80\n"]
        );
        let broken = Listed { record: Err(NoRecord::Unreadable("a\nb".to_owned())), ..moved };
        assert_eq!(lines(&mut known, &[broken]), ["T ~ web a no record: a\\nb\n"]);
        assert_eq!(known.all().len(), 1);
    }

    #[test]
    fn programs_get_the_record_with_what_became_of_it() {
        let change = Known::default().take(vec![entry("a", "10.0.0.1", 9)]).remove(0);
        let json = change.json("T");
        assert!(json.starts_with(r#"{"time":"T","change":"added","name":"web","instance":"a","#), "{json}");
    }
}
