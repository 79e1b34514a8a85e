//! Clients and what is kept of each, in the order of their last datagram: whom to forget next is always known. Pure:
//! the time is told, no socket is touched. Called by `udp`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// Who sends, and to where: an answer goes back from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client {
    /// Which of the forward's ports.
    pub(super) port: usize,
    pub(super) address: SocketAddr,
    /// Which of this machine's addresses the client sends to, where the port takes what comes to any.
    pub(super) local: Option<IpAddr>,
}

/// A session's place. Another one may have it once this one is removed.
pub(super) type Id = usize;

#[derive(Debug)]
pub(super) struct Sessions<S> {
    ids: HashMap<Client, Id>,
    places: Vec<Place<S>>,
    /// Both ends of the list of taken places, by their last use, and the list of free ones.
    longest_idle: Option<Id>,
    latest: Option<Id>,
    free: Vec<Id>,
}

#[derive(Debug)]
struct Place<S> {
    taken: Option<Taken<S>>,
    /// The one used just before it, and just after it.
    before: Option<Id>,
    after: Option<Id>,
}

#[derive(Debug)]
struct Taken<S> {
    client: Client,
    session: S,
    last: Instant,
}

impl<S> Default for Sessions<S> {
    fn default() -> Self {
        Self { ids: HashMap::new(), places: Vec::new(), longest_idle: None, latest: None, free: Vec::new() }
    }
}

impl<S> Sessions<S> {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn find(&self, client: &Client) -> Option<Id> {
        self.ids.get(client).copied()
    }

    /// A new session, for a client that has none.
    pub(super) fn insert(&mut self, client: Client, session: S, now: Instant) -> Id {
        let id = self.free.pop().unwrap_or(self.places.len());
        let place = Place { taken: Some(Taken { client, session, last: now }), before: None, after: None };
        match self.places.get_mut(id) {
            Some(free) => *free = place,
            None => self.places.push(place),
        }
        self.ids.insert(client, id);
        self.append(id);
        id
    }

    pub(super) fn get(&mut self, id: Id) -> Option<(Client, &mut S)> {
        let taken = self.places.get_mut(id)?.taken.as_mut()?;
        Some((taken.client, &mut taken.session))
    }

    /// When a datagram of the session last went either way.
    pub(super) fn last(&self, id: Id) -> Option<Instant> {
        Some(self.places.get(id)?.taken.as_ref()?.last)
    }

    /// A datagram of the session goes either way.
    pub(super) fn touch(&mut self, id: Id, now: Instant) {
        let Some(taken) = self.places.get_mut(id).and_then(|place| place.taken.as_mut()) else { return };
        taken.last = now;
        if self.latest != Some(id) {
            self.unlink(id);
            self.append(id);
        }
    }

    /// The session that has been silent for longest, and since when.
    pub(super) fn longest_idle(&self) -> Option<(Id, Instant)> {
        let id = self.longest_idle?;
        Some((id, self.last(id)?))
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<S> {
        let taken = self.places.get_mut(id)?.taken.take()?;
        self.unlink(id);
        self.ids.remove(&taken.client);
        self.free.push(id);
        Some(taken.session)
    }

    fn append(&mut self, id: Id) {
        let before = self.latest.replace(id);
        self.places[id].before = before;
        self.places[id].after = None;
        match before {
            Some(before) => self.places[before].after = Some(id),
            None => self.longest_idle = Some(id),
        }
    }

    fn unlink(&mut self, id: Id) {
        let Place { before, after, .. } = self.places[id];
        match before {
            Some(before) => self.places[before].after = after,
            None => self.longest_idle = after,
        }
        match after {
            Some(after) => self.places[after].before = before,
            None => self.latest = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn client(number: u16) -> Client {
        Client { port: 0, address: SocketAddr::from(([127, 0, 0, 1], number)), local: None }
    }

    /// The order by a plain list must be the order here, whatever is done.
    #[test]
    fn the_longest_idle_is_known_after_whatever_was_done() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut now = Instant::now();
        let mut sessions = Sessions::default();
        let mut plain: Vec<(u16, Instant)> = Vec::new();
        for _ in 0..20_000 {
            now += Duration::from_millis(1);
            let number = random.u16(1..60);
            let known = plain.iter().position(|(known, _)| *known == number);
            match (sessions.find(&client(number)), known) {
                (None, None) => {
                    let id = sessions.insert(client(number), number, now);
                    assert_eq!(sessions.get(id), Some((client(number), &mut { number })));
                    plain.push((number, now));
                }
                (Some(id), Some(at)) if random.bool() => {
                    sessions.touch(id, now);
                    plain.remove(at);
                    plain.push((number, now));
                }
                (Some(id), Some(at)) => {
                    assert_eq!(sessions.remove(id), Some(number));
                    assert_eq!(sessions.remove(id), None);
                    plain.remove(at);
                }
                (found, known) => panic!("{found:?} where {known:?}"),
            }
            let longest = sessions.longest_idle().map(|(id, last)| (sessions.get(id).map(|(_, n)| *n), last));
            assert_eq!(longest, plain.first().map(|(number, last)| (Some(*number), *last)));
            assert_eq!(sessions.len(), plain.len());
        }
        while let Some((id, _)) = sessions.longest_idle() {
            assert_eq!(sessions.remove(id), Some(plain.remove(0).0));
        }
        assert!(plain.is_empty() && sessions.places.len() < 60);
    }

    /// As docs/links.md says.
    #[test]
    fn a_session_is_small() {
        let size = size_of::<Place<crate::links::udp::Session>>() + size_of::<(Client, Id)>();
        assert!(size <= 300, "{size} bytes");
    }

    #[test]
    fn one_port_of_a_client_is_another_client_at_another_address_of_ours() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let [a, b] = [1, 2].map(|last| Client { local: Some(IpAddr::from([127, 0, 0, last])), ..client(5) });
        let (one, two) = (sessions.insert(a, 'a', now), sessions.insert(b, 'b', now));
        assert_eq!(
            (sessions.find(&a), sessions.find(&b), sessions.find(&client(5))),
            (Some(one), Some(two), None)
        );
    }
}
