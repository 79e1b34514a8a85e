//! A terminal to run commands on: a pty whose other end the test holds, with everything shown on it kept. It knows
//! nothing of shells and inits; `actor session` makes it the controlling terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;

use super::wait;

pub struct Terminal {
    master: File,
    slave: OwnedFd,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    pub fn new() -> Terminal {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).expect("a pty");
        grantpt(&master).expect("the other end can be had");
        unlockpt(&master).expect("the other end can be opened");
        let name = ptsname_r(&master).expect("the other end has a name");
        let slave = open(name.as_str(), flags, Mode::empty()).expect("the other end opens");
        let master = File::from(OwnedFd::from(master));
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (master.try_clone().expect("a descriptor is free"), Arc::clone(&shown));
        // Ends with the error that a master gives once the last slave is closed.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                to.lock().expect("no reader panics").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Terminal { master, slave, shown }
    }

    /// The end for a command's stdin, stdout or stderr.
    pub fn end(&self) -> OwnedFd {
        self.slave.try_clone().expect("a descriptor is free")
    }

    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes what is typed");
    }

    pub fn shown(&self) -> String {
        self.shown.lock().expect("no reader panics").clone()
    }

    /// Waits until `text` has been shown after the first `from` bytes; gives where it ends.
    pub fn until(&self, from: usize, text: &str) -> usize {
        wait::until(&format!("{text:?} on the terminal"), || {
            let at = self.shown()[from..].find(text)?;
            Some(from + at + text.len())
        })
    }
}
