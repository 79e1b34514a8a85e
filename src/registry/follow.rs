//! A name's instances, or everybody's, as they come and go: what is there is listed, then watched, and listed again whenever the watch
//! may have missed something. It must never ask in a row without a pause, never hold more than the instances
//! themselves, and never tell "nobody" when it only could not ask. Called by the wiring for links that follow a name, and by `ls`.

use std::time::Duration;

use tokio::time::Instant;

use super::skydns::Fields;
use super::{Listed, Registry};
use crate::config::DnsName;
use crate::net::resolve::Instance;

/// The longest first pause after a failure; the ceiling doubles with each, the pause is drawn from half of it up.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A silent watch that lasted for so long has worked: something on the way may end what is idle. One that nobody answers is
/// given up before.
const LASTING: Duration = Duration::from_secs(2);

/// A watch that is silent for so long is begun anew: a member that froze says nothing of it.
pub(super) const WATCH: Duration = Duration::from_secs(30);

/// What came of a watch that ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It told that something has changed.
    News,
    /// It did not, for as long as it lasted; perhaps it was not let in.
    Silent,
}

/// What a watch is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// All who are announced now; perhaps nobody.
    Instances(Vec<Instance>),
    /// The registry can't be asked, for this reason. Told once; the next word is `Instances`.
    Lost(String),
}

/// Tells of each change for ever.
pub(super) async fn follow(registry: &Registry, name: Option<&DnsName>, mut tell: impl FnMut(Seen) + Send) {
    let mut ceiling = FIRST_PAUSE;
    let mut is_lost = false;
    loop {
        let mut listed = None;
        let mut hear = |instances| {
            listed.get_or_insert_with(Instant::now);
            is_lost = false;
            tell(Seen::Instances(instances));
        };
        let ended = match registry {
            Registry::Etcd3(client) => client.watch(name, &mut hear).await,
            Registry::Etcd2(client) => client.watch(name, &mut hear).await,
            Registry::Dir(store) => store.watch(name, &mut hear).await,
        };
        let lasted = listed.map_or(Duration::ZERO, |listed| listed.elapsed());
        // To be listed is not enough: where nobody may watch, that would be a spin.
        if lasted > LASTING || matches!(ended, Ok(Ended::News)) {
            ceiling = FIRST_PAUSE;
        }
        match ended {
            // Only to look anew. One that came back at once would be a spin, too.
            Ok(Ended::News) if lasted > FIRST_PAUSE => continue,
            Ok(Ended::Silent) if lasted > LASTING => continue,
            Ok(Ended::News | Ended::Silent) => {}
            Err(error) if !is_lost => {
                is_lost = true;
                tell(Seen::Lost(error.to_string()));
            }
            Err(_) => {}
        }
        #[expect(clippy::disallowed_methods, reason = "links follow names on a thread of their own")]
        tokio::time::sleep(ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        ceiling = (ceiling * 2).min(LONGEST_PAUSE);
    }
}

/// Those of `listed` that can be connected to.
pub fn instances(listed: &[Listed]) -> Vec<Instance> {
    listed.iter().filter_map(|listed| instance(listed.record.as_ref().ok()?)).collect()
}

/// `None` for a record without a port. 0 stands for what is usual, as it does for resolvers.
pub(super) fn instance(fields: &Fields) -> Option<Instance> {
    let or = |number: i64, usual: i64| if number == 0 { usual } else { number };
    let bounded = |number: i64| u16::try_from(number.clamp(0, 0xffff)).unwrap_or(u16::MAX);
    Some(Instance {
        host: fields.host.clone(),
        port: u16::try_from(fields.port).ok().filter(|port| *port > 0)?,
        priority: bounded(or(fields.priority, 10)),
        weight: bounded(or(fields.weight, 100)),
    })
}

/// When a watch that begins now is to be begun anew: not all at once.
pub(super) fn renewal() -> Duration {
    WATCH.mul_f64(0.75 + fastrand::f64() / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_others_are_taken_as_resolvers_take_them() {
        let read = |text: &str| instance(&Fields::parse(text).expect("a record"));
        let found = read(r#"{"host":"db.example","port":80}"#).expect("an instance");
        assert_eq!(
            (found.host.as_str(), found.port, found.priority, found.weight),
            ("db.example", 80, 10, 100)
        );
        let found = read(r#"{"host":"::1","port":80,"priority":-1,"weight":0}"#).expect("an instance");
        assert_eq!((found.priority, found.weight), (0, 100));
        let found = read(r#"{"host":"::1","port":80,"priority":0}"#).expect("an instance");
        assert_eq!((found.priority, found.weight), (10, 100));
        for port in ["0", "-1", "65536"] {
            assert_eq!(read(&format!(r#"{{"host":"::1","port":{port}}}"#)), None);
        }
    }
}
