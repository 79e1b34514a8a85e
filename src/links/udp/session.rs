//! One client's way to the upstream: how it begins, which address it has, when it gets another one. Never waits, never
//! keeps a datagram. The rest of `udp`'s forwarder calls it.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::Forwarder;
use super::sessions::{Client, Id};
use crate::links::counters::Use;
use crate::links::endpoint::Endpoint;
use crate::links::own::leads_back;
use crate::links::shared::Guest;

/// A session that was silent for this long is moved when its sources have changed.
const PAUSED: Duration = Duration::from_secs(5);

/// An address that has not refused anything for this long is there, even if it never answers.
const PROOF: Duration = Duration::from_secs(4);

/// What is kept of one client.
pub(super) struct Session {
    /// Connected: the kernel passes on what comes from that address, and no other's.
    pub(super) socket: UdpSocket,
    to: Endpoint,
    /// Where that is from.
    version: u64,
    chosen: Instant,
    sent: Instant,
    standing: Standing,
    counted: Use,
    pub(super) guest: Guest,
}

/// What is known of a session's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing yet.
    Untried,
    There,
    /// It refused the last datagram; the next one goes elsewhere.
    Refused,
}

impl Forwarder {
    /// The first datagram of a client.
    pub(super) fn begin(&mut self, client: Client, bytes: &[u8], now: Instant) {
        if self.sessions.len() >= self.bounds.sessions {
            self.end_longest_idle(now);
        }
        let guest = self.shared.try_admit();
        // Where connections have taken all the rest, a session of our own makes room.
        let Some(guest) = guest.or_else(|| self.end_longest_idle(now)) else {
            return self.dropped(now, "no descriptor is left for one more client");
        };
        let Some((to, socket)) = self.connect(now) else { return };
        self.shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let counted = self.shared.upstream.begun(&to);
        let (version, standing) = (self.version, Standing::Untried);
        let session = Session { socket, to, version, chosen: now, sent: now, standing, counted, guest };
        let id = self.sessions.insert(client, session, now);
        self.watch_over(id, now);
        self.send(id, bytes, now);
    }

    fn watch_over(&mut self, id: Id, now: Instant) {
        let Some((_, session)) = self.sessions.get(id) else { return };
        if let Err(error) = self.watch.add(&session.socket, self.ports.len() + id) {
            // The kernel has no room to watch one more: nobody would see its answers.
            self.sessions.remove(id);
            self.dropped(now, &format!("a new client: {error}"));
        }
    }

    /// A datagram of a client that has a session.
    pub(super) fn send(&mut self, id: Id, bytes: &[u8], now: Instant) {
        // A refusal of an earlier datagram is told to the next one, which then has not been sent: once for each of two.
        for _ in 0..3 {
            self.follow(id, now);
            let Some((_, session)) = self.sessions.get(id) else { return };
            session.sent = now;
            let sent = session.socket.send(bytes);
            match sent {
                Ok(length) => {
                    self.shared.counters.moved(length, 0);
                    if session.standing == Standing::Untried && now.duration_since(session.chosen) >= PROOF {
                        self.is_there(id);
                    }
                    return self.sessions.touch(id, now);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_of_one_datagram(&error) => {
                    return self.dropped(now, &error.to_string());
                }
                Err(error) => self.refused(id, &error, now),
            }
        }
        self.dropped(now, "refused");
    }

    /// Moves a session whose address refuses, or is no longer one of the upstream's; or which has paused while the
    /// sources changed.
    fn follow(&mut self, id: Id, now: Instant) {
        let paused = self.sessions.last(id).is_some_and(|last| now.duration_since(last) >= PAUSED);
        let (version, learned) = (self.version, &self.learned);
        let Some((_, session)) = self.sessions.get(id) else { return };
        let is_offered =
            || learned.iter().any(|offers| offers.iter().any(|offer| offer.address == session.to));
        let stays =
            session.standing != Standing::Refused && (session.version == version || !paused && is_offered());
        if stays {
            session.version = version;
            return;
        }
        let Some((to, socket)) = self.connect(now) else { return };
        let Some((_, session)) = self.sessions.get(id) else { return };
        let standing = Standing::Untried;
        session.version = version;
        (session.chosen, session.standing) = (now, standing);
        // The old socket may have refusals to tell, and its source address was chosen for the old way.
        session.counted = self.shared.upstream.begun(&to);
        (session.to, session.socket) = (to, socket);
        self.watch_over(id, now);
    }

    /// A socket to the next address, and which that is.
    fn connect(&mut self, now: Instant) -> Option<(Endpoint, UdpSocket)> {
        let mut tried = Vec::new();
        let mut failure = None;
        loop {
            let Some(to) = self.shared.upstream.choose(now, &tried) else {
                let lack = failure.unwrap_or_else(|| self.shared.upstream.lack());
                self.fails(&lack);
                self.dropped(now, &lack);
                return None;
            };
            match self.socket_to(&to) {
                Ok(socket) => return Some((to, socket)),
                Err(error) if is_ours(&error) => {
                    self.dropped(now, &format!("a new client: {error}"));
                    // So that the next one has a port, or a descriptor.
                    self.end_longest_idle(now);
                    return None;
                }
                Err(error) => {
                    self.shared.upstream.refused(&to, now, now);
                    failure.get_or_insert_with(|| format!("{to}: {error}"));
                    tried.push(to);
                }
            }
        }
    }

    fn socket_to(&self, to: &Endpoint) -> io::Result<UdpSocket> {
        // As an address: the port is UDP's here.
        let Endpoint::Tcp(to) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new_raw(Domain::for_address(*to), kind, Some(Protocol::UDP))?;
        socket.connect(&(*to).into())?;
        let socket = UdpSocket::from(socket);
        if socket.local_addr()? == *to {
            // The kernel gave it the very port that nobody has: it would answer itself.
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if leads_back(*to, &self.own) {
            return Err(io::Error::other("this link itself listens there"));
        }
        Ok(socket)
    }

    /// The upstream answers, or takes what it gets without a word.
    pub(super) fn is_there(&mut self, id: Id) {
        let Self { sessions, shared, refused, .. } = self;
        let Some((_, session)) = sessions.get(id) else { return };
        if session.standing != Standing::There {
            session.standing = Standing::There;
            shared.upstream.answered(&session.to);
        }
        refused.clear();
        self.works();
    }

    /// The address of a session takes nothing.
    pub(super) fn refused(&mut self, id: Id, error: &io::Error, now: Instant) {
        let Some((_, session)) = self.sessions.get(id) else { return };
        session.standing = Standing::Refused;
        let to = session.to.clone();
        self.shared.upstream.refused(&to, session.sent, now);
        if self.refused.contains(&to) {
            return;
        }
        let failure = format!("{to}: {error}");
        self.refused.push(to);
        let mut offers = self.learned.iter().flat_map(|offers| offers.iter());
        if offers.all(|offer| self.refused.contains(&offer.address)) {
            self.fails(&failure);
        }
    }
}

/// It says nothing about the other end.
fn is_ours(error: &io::Error) -> bool {
    let short = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EAGAIN];
    error.raw_os_error().is_some_and(|code| short.contains(&Errno::from_raw(code)))
}

/// It is about this datagram, or this moment: the next one may do.
fn is_of_one_datagram(error: &io::Error) -> bool {
    is_ours(error) || error.raw_os_error() == Some(libc::EMSGSIZE)
}
