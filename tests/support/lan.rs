//! A small network for one test: hosts with an address each, a switch between them, all in network namespaces of their
//! own. Nothing of it is reachable from outside, nor the outside from it. Gone with the value.

use std::net::Ipv4Addr;
use std::process::Command;

use super::acted;
use super::namespace::{Place, Running, Sandbox};

/// A machine in the network: something keeps its namespace, and commands can be run in it.
pub struct Host {
    /// Of a process in that namespace.
    pid: i32,
    _keeper: Option<Running>,
    pub address: Ipv4Addr,
}

pub struct Lan {
    /// Has an address too, the first.
    pub switch: Host,
    pub hosts: Vec<Host>,
}

impl Lan {
    /// With so many hosts beside the switch.
    pub fn of(hosts: u8) -> Self {
        Self::around(Host::kept(Sandbox::new(Place::First).net(), 0), hosts)
    }

    /// As `of`, but the switch is in the network of this process, which can then talk to each host. Only for a test that
    /// has a network of its own ([`super::namespace::ran_inside`]).
    pub fn here(hosts: u8) -> Self {
        let pid = std::process::id().try_into().expect("a pid");
        Self::around(Host { pid, _keeper: None, address: address(0) }, hosts)
    }

    fn around(switch: Host, hosts: u8) -> Self {
        let at = format!("{}/24", switch.address);
        switch.ip(&["link", "add", "lan", "type", "bridge"]);
        switch.ip(&["addr", "add", &at, "dev", "lan"]);
        switch.ip(&["link", "set", "lan", "up"]);
        let hosts = (1..=hosts).map(|number| switch.connect(number)).collect();
        Self { switch, hosts }
    }
}

impl Host {
    /// One in whose namespace a process does nothing but keep it.
    fn kept(sandbox: Sandbox, number: u8) -> Self {
        let keeper = sandbox.start(acted(&["hold"]));
        keeper.until_line("ready");
        Self { pid: keeper.init(), _keeper: Some(keeper), address: address(number) }
    }

    /// A sandbox whose network is this host's.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new(Place::First).beside(self.pid)
    }

    /// To run `program` in this host's network.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(super::namespace::joining(self.pid)).arg(program);
        command
    }

    pub fn ip(&self, args: &[&str]) {
        let done = self.command("ip").args(args).output().expect("nsenter and ip are there");
        assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// One more host at this switch.
    fn connect(&self, number: u8) -> Host {
        let host = Host::kept(self.sandbox().net(), number);
        let (port, pid) = (format!("port{number}"), host.pid.to_string());
        self.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        self.ip(&["link", "set", &port, "master", "lan", "up"]);
        host.ip(&["addr", "add", &format!("{}/24", host.address), "dev", "eth0"]);
        host.ip(&["link", "set", "eth0", "up"]);
        host
    }
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number + 1)
}
