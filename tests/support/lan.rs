//! A small network for one test: hosts with an address each, a switch between them, all in network namespaces of their
//! own. Nothing of it is reachable from outside, nor the outside from it. Gone with the value.

use std::net::Ipv4Addr;
use std::process::Command;

use super::acted;
use super::namespace::{Place, Running, Sandbox};

/// A machine in the network: something keeps its namespace, and commands can be run in it.
pub struct Host {
    keeper: Running,
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
        let switch = Host { keeper: keeper(Sandbox::new(Place::First)), address: address(0) };
        let at = format!("{}/24", switch.address);
        switch.ip(&["link", "add", "lan", "type", "bridge"]);
        switch.ip(&["addr", "add", &at, "dev", "lan"]);
        switch.ip(&["link", "set", "lan", "up"]);
        let hosts = (1..=hosts).map(|number| switch.connect(number)).collect();
        Self { switch, hosts }
    }
}

impl Host {
    /// A sandbox whose network is this host's.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new(Place::First).beside(self.keeper.init())
    }

    /// To run `program` in this host's network.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(super::namespace::joining(self.keeper.init())).arg(program);
        command
    }

    fn ip(&self, args: &[&str]) {
        let done = self.command("ip").args(args).output().expect("nsenter and ip are there");
        assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// One more host at this switch.
    fn connect(&self, number: u8) -> Host {
        let host = Host { keeper: keeper(self.sandbox()), address: address(number) };
        let (port, pid) = (format!("port{number}"), host.keeper.init().to_string());
        self.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        self.ip(&["link", "set", &port, "master", "lan", "up"]);
        host.ip(&["addr", "add", &format!("{}/24", host.address), "dev", "eth0"]);
        host.ip(&["link", "set", "eth0", "up"]);
        host
    }
}

fn keeper(sandbox: Sandbox) -> Running {
    let keeper = sandbox.net().start(acted(&["hold"]));
    keeper.until_line("ready");
    keeper
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number + 1)
}
