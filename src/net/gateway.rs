//! The default route's gateway: in a container, mostly the host. Reads the kernel's tables in /proc; sends nothing,
//! caches nothing. Called by links.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::net::if_::if_nametoindex;

/// Flags of a route that is in use, and of one that leads over a gateway.
const UP: u32 = 1;
const GATEWAY: u32 = 2;

/// `port` at the gateway of each family's default route, IPv4 first; empty where there is none.
pub fn at_port(port: u16) -> Vec<SocketAddr> {
    let read = |table: &str| fs::read_to_string(table).unwrap_or_default();
    let v4 = v4(&read("/proc/net/route")).map(|ip| (IpAddr::V4(ip), port).into());
    let v6 = v6(&read("/proc/net/ipv6_route")).map(|(ip, interface)| {
        // A link-local one is one of each interface.
        let scope =
            if ip.is_unicast_link_local() { if_nametoindex(interface.as_str()).unwrap_or(0) } else { 0 };
        SocketAddrV6::new(ip, port, 0, scope).into()
    });
    v4.into_iter().chain(v6).collect()
}

/// The gateway of the default route with the lowest metric.
fn v4(table: &str) -> Option<Ipv4Addr> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_interface, to, via, flags, _, _, metric, mask, ..] = words[..] else { return None };
        let is_default = u32::from_str_radix(to, 16) == Ok(0) && u32::from_str_radix(mask, 16) == Ok(0);
        // The kernel prints the address as this machine's number.
        let via = u32::from_str_radix(via, 16).ok()?.to_ne_bytes();
        (is_default && is_over_gateway(flags))
            .then(|| (metric.parse().unwrap_or(u32::MAX), Ipv4Addr::from(via)))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, via)| via)
}

/// As [`v4`], with the interface.
fn v6(table: &str) -> Option<(Ipv6Addr, String)> {
    let routes = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_to, length, _, _, via, metric, _, _, flags, interface] = words[..] else { return None };
        let via = Ipv6Addr::from(u128::from_str_radix(via, 16).ok()?);
        let metric = u32::from_str_radix(metric, 16).unwrap_or(u32::MAX);
        (length == "00" && is_over_gateway(flags)).then(|| (metric, (via, interface.to_owned())))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, via)| via)
}

fn is_over_gateway(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & (UP | GATEWAY) == UP | GATEWAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric() {
        let number = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let line = |to, via, flags: &str, metric: &str, mask| {
            format!(
                "eth0\t{}\t{}\t{flags}\t0\t0\t{metric}\t{}\t0\t0\t0\n",
                number(to),
                number(via),
                number(mask)
            )
        };
        let all = [0; 4];
        let table = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
                .to_owned(),
            line(all, [10, 0, 0, 2], "0003", "200", all),
            line(all, [172, 17, 0, 1], "0003", "0", all),
            // Not up; no gateway; not the default.
            line(all, [10, 0, 0, 3], "0002", "0", all),
            line(all, all, "0001", "0", all),
            line([172, 17, 0, 0], [10, 0, 0, 4], "0003", "0", [255, 255, 0, 0]),
            "garbage\n".to_owned(),
        ];
        assert_eq!(v4(&table.concat()), Some(Ipv4Addr::new(172, 17, 0, 1)));
        assert_eq!(v4(&table[..1].concat()), None);
        assert_eq!(v4(""), None);
    }

    #[test]
    fn the_same_for_ipv6() {
        let none = "0".repeat(32);
        let table = format!(
            "{none} 00 {none} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             {none} 00 {none} 00 fd000000000000000000000000000001 00000100 00000001 00000000 00000003     eth1\n\
             fd000000000000000000000000000000 40 {none} 00 {none} 00000100 00000001 00000000 00000001     eth1\n\
             {none} 00 {none} 00 {none} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(v6(&table), Some(("fd00::1".parse().expect("an address"), "eth1".to_owned())));
        assert_eq!(v6(""), None);
    }
}
