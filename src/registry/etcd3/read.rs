//! Reading: what lies below a name, and each change there. It must never write. Called by `Registry`.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

impl Client {
    pub async fn list(&self, name: Option<&DnsName>) -> Result<Vec<Listed>, Error> {
        let folder = self.folder(name);
        // `/` + 1 is `0`: everything below the folder, and not its namesakes (`/web-2` sorts before `/web/`).
        let ask = json!({"key": encode(&format!("{folder}/")), "range_end": encode(&format!("{folder}0"))});
        self.range(ask, &folder).await
    }

    /// Everything below `name` lies there, or everything.
    pub(super) fn folder(&self, name: Option<&DnsName>) -> String {
        name.map_or(self.prefix.clone(), |name| skydns::folder(&self.prefix, name))
    }

    /// What lies at `key` itself.
    pub async fn at(&self, key: &str) -> Result<Option<Listed>, Error> {
        Ok(self.range(json!({"key": encode(key)}), key).await?.pop())
    }

    /// `what` is read, for people.
    async fn range(&self, ask: Value, what: &str) -> Result<Vec<Listed>, Error> {
        let mut tour = self.endpoints.tour();
        let range: Range = accepted(call(&mut tour, "/v3/kv/range", &ask).await?, what)?;
        let mut left: HashMap<&str, Option<Duration>> = HashMap::new();
        for kv in &range.kvs {
            if kv.lease != "0" && !left.contains_key(kv.lease.as_str()) {
                let ask = json!({"ID": kv.lease});
                let lease: TimeToLive = accepted(call(&mut tour, "/v3/lease/timetolive", &ask).await?, what)?;
                left.insert(&kv.lease, lease.left());
            }
        }
        let listed = range.kvs.iter().filter_map(|kv| {
            let ttl_left = left.get(kv.lease.as_str()).copied().flatten();
            Listed::new(&self.prefix, &decode(&kv.key), Fields::parse(&decode(&kv.value)), ttl_left)
        });
        Ok(listed.collect())
    }
}
