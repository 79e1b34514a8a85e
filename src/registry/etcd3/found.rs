//! What stands under the keys of a claim's records, as one transaction read it: nothing, ours, or a rival's.
//! Pure; it must never take a record for ours that another lease holds. Called by `etcd3`.

use super::{Txn, decode, encode, zero};
use crate::registry::claim::Claim;
use crate::registry::skydns::{Fields, NoRecord, Record};

impl Txn {
    /// What was read, place by place.
    pub(super) fn found(&self, claim: &Claim) -> Vec<Found> {
        let token = claim.token().to_string();
        let places = 0..claim.records().len();
        places
            .map(|place| {
                let range = self.responses.get(place).map(|response| &response.response_range);
                let Some(kv) = range.and_then(|range| range.kvs.first()) else { return Found::Nothing };
                let revision = kv.mod_revision.clone();
                let says = |record: &Record| kv.value == encode(&record.value());
                match kv.lease == token {
                    true if says(&claim.records()[place]) => Found::Current { revision },
                    true => Found::Stale { revision },
                    false => {
                        let says_ours = claim.said_at(place).any(says);
                        let record = Fields::parse(&decode(&kv.value));
                        if says_ours {
                            Found::Alike { revision, record }
                        } else {
                            Found::Rival { revision, record }
                        }
                    }
                }
            })
            .collect()
    }
}

/// What stands under the key of one of a claim's records.
pub(super) enum Found {
    Nothing,
    Current {
        revision: String,
    },
    /// Ours, and it says what is not true any more.
    Stale {
        revision: String,
    },
    /// Under another lease, and it says what we say or have said: mostly an earlier life of ours.
    Alike {
        revision: String,
        record: Result<Fields, NoRecord>,
    },
    Rival {
        revision: String,
        record: Result<Fields, NoRecord>,
    },
}

impl Found {
    pub(super) fn revision(&self) -> String {
        match self {
            Self::Nothing => zero(),
            Self::Current { revision }
            | Self::Stale { revision }
            | Self::Alike { revision, .. }
            | Self::Rival { revision, .. } => revision.clone(),
        }
    }

    /// What another claim's record says.
    pub(super) fn rival(&self) -> Option<&Result<Fields, NoRecord>> {
        match self {
            Self::Nothing | Self::Current { .. } | Self::Stale { .. } => None,
            Self::Alike { record, .. } | Self::Rival { record, .. } => Some(record),
        }
    }
}
