//! Which addresses lead back to where a forward itself listens: a connection there would go round until nothing is left
//! to make one with. Connects to nothing. Called by whoever is about to connect, and by `found`.

use std::net::{IpAddr, SocketAddr};

use crate::net::address::source_towards;

/// Whether `to` is where one of `own` listens.
pub(super) fn leads_back(to: SocketAddr, own: &[SocketAddr]) -> bool {
    let ip = to.ip().to_canonical();
    own.iter().any(|own| own.port() == to.port() && takes(own.ip(), ip, to))
}

/// A listener at every address has those of the machine, which may change: the kernel says whether `ip` is one.
fn takes(own: IpAddr, ip: IpAddr, to: SocketAddr) -> bool {
    // To connect to no address is to connect to this machine.
    let is_loopback = ip.is_loopback() || ip.is_unspecified();
    own.is_ipv4() == ip.is_ipv4()
        && (own == ip
            || own.is_unspecified() && (is_loopback || source_towards(to) == Some(to.ip()))
            || own.is_loopback() && ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn every_address_of_the_machine_leads_back_to_a_listener_at_all_of_them() {
        let any = [address("0.0.0.0:80")];
        // 127.0.0.9 is this machine's like all of them; 192.0.2.1 is nobody's.
        for (to, leads) in [
            ("127.0.0.1:80", true),
            ("127.0.0.9:80", true),
            ("0.0.0.0:80", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("127.0.0.1:81", false),
            ("[::1]:80", false),
            ("192.0.2.1:80", false),
        ] {
            assert_eq!(leads_back(address(to), &any), leads, "{to}");
        }
    }

    #[test]
    fn a_listener_at_one_address_has_no_other() {
        let own = [address("127.0.0.1:80"), address("[::1]:80")];
        assert!(leads_back(address("127.0.0.1:80"), &own) && leads_back(address("0.0.0.0:80"), &own));
        assert!(leads_back(address("[::1]:80"), &own) && leads_back(address("[::]:80"), &own));
        assert!(!leads_back(address("127.0.0.2:80"), &own));
    }
}
