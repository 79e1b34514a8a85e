//! Other processes: signals to them, their ends, their relation to us.

use std::ffi::{CStr, OsString, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;

/// A process id in our own PID namespace.
pub type Pid = i32;

/// What `wait` learned of one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    Exited {
        pid: Pid,
        code: u8,
    },
    Killed {
        pid: Pid,
        signal: i32,
    },
    /// Suspended, not ended.
    Stopped {
        pid: Pid,
    },
    /// None has anything to report now, but there are children.
    Nothing,
    /// There is no child at all; where we are the reaper of our descendants, none of those either.
    NoChildren,
}

/// Asks for the next child that has ended or stopped, without blocking. Straight from the kernel: nix's `WaitStatus`
/// has no place for a death by a real-time signal, and the exit would be lost.
pub fn wait() -> Waited {
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG;
        #[expect(clippy::disallowed_methods, reason = "the one wait, for the one reaper")]
        // SAFETY: the kernel writes one siginfo into memory that is ours.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
        if result == -1 {
            match Errno::last() {
                Errno::EINTR => continue,
                _ => return Waited::NoChildren,
            }
        }
        // SAFETY: zeroed before and filled by the kernel now; the two accessors read fields of a SIGCHLD info, and
        // of an all-zero one where nothing has happened.
        let (code, pid, status) = unsafe {
            let info = info.assume_init_ref();
            (info.si_code, info.si_pid(), info.si_status())
        };
        return match (pid, code) {
            (0, _) => Waited::Nothing,
            (pid, libc::CLD_EXITED) => Waited::Exited { pid, code: (status & 0xff) as u8 },
            (pid, libc::CLD_KILLED | libc::CLD_DUMPED) => Waited::Killed { pid, signal: status },
            (pid, _) => Waited::Stopped { pid },
        };
    }
}

/// Sends a signal to one process.
pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: a plain system call without memory.
    check(unsafe { libc::kill(pid, signal) })
}

/// Sends a signal to the group that `pid` leads, or to `pid` alone while there is no such group.
pub fn kill_group(pid: Pid, signal: i32) -> io::Result<()> {
    match kill(-pid, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => kill(pid, signal),
        result => result,
    }
}

/// Sends a signal to every process that there is for us but ourselves. For PID 1 only.
pub fn kill_all(signal: i32) -> io::Result<()> {
    kill(-1, signal)
}

/// Orphaned descendants become our children instead of PID 1's.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// The environment that we were given, entry by entry, as bytes: what has no `=` or stands there twice is main's as
/// well. Call it before there is a second thread.
pub fn environment() -> Vec<OsString> {
    let mut entries = Vec::new();
    // SAFETY: the C library keeps `environ` as a list of strings that ends with a null pointer (or as none at all);
    // nothing of ours ever changes it.
    unsafe {
        let mut next = libc::environ;
        while !next.is_null() && !(*next).is_null() {
            entries.push(OsString::from_vec(CStr::from_ptr(*next).to_bytes().to_vec()));
            next = next.add(1);
        }
    }
    entries
}

/// Raises our soft limit of open files to the hard one, and gives what both were: what a child must get back. `None`
/// where nothing was changed.
pub fn raise_descriptor_limit() -> Option<(u64, u64)> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok()).then_some((soft, hard))
}

/// How many files we may have open.
pub fn descriptor_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Gives the pages of our own program that only the start needed back to the page cache, where they are free for the
/// taking. What is needed again comes back from there without reading the disk.
pub fn release_startup_pages() {
    unsafe extern "C" {
        /// Set by the linker: where the program begins, and where its code ends.
        static __executable_start: u8;
        static etext: u8;
    }
    let (start, end) = (&raw const __executable_start, &raw const etext);
    let page = 4096;
    let length = (end as usize - start as usize) & !(page - 1);
    // SAFETY: between the two lie only the read-only and the executable segment, mapped from the file and never
    // written to: each page reads the same when it is mapped again. A refusal changes nothing.
    unsafe { libc::madvise(start.cast_mut().cast(), length, libc::MADV_DONTNEED) };
}

/// Closes every inherited descriptor above stderr at the next exec: a child has no use for what we were given, and a
/// leaked pipe keeps its other end waiting.
pub fn seal_inherited_fds() {
    // SAFETY: sets a flag on descriptors, touches no memory.
    let sealed = unsafe {
        libc::syscall(libc::SYS_close_range, 3 as c_int, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC as c_int)
    };
    if sealed == 0 {
        return;
    }
    // Before Linux 5.11: one by one.
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<c_int>().ok());
    for fd in open.filter(|&fd| fd > 2) {
        // SAFETY: sets a flag on a descriptor; one that has just been closed gives an error that nobody needs.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Our descendants, nearest first, as far as /proc shows them.
pub fn descendants() -> Vec<Pid> {
    let mut parents = Vec::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<Pid>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read(entry.path().join("stat")) else { continue };
        parents.extend(parse_parent(&stat).map(|parent| (pid, parent)));
    }
    let mut found = vec![nix::unistd::getpid().as_raw()];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        let children = parents.iter().filter(|&&(_, of)| of == parent).map(|&(pid, _)| pid);
        found.extend(children.collect::<Vec<_>>());
    }
    found.split_off(1)
}

/// Whose child `pid` is, as /proc shows it.
pub fn parent(pid: Pid) -> Option<Pid> {
    parse_parent(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The fourth field of /proc/PID/stat. The second, a name in parentheses, may hold anything.
fn parse_parent(stat: &[u8]) -> Option<Pid> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let rest = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn check(result: c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_parentheses_hides_no_field() {
        assert_eq!(parse_parent(b"42 (a) b) S 7 42 42 0"), Some(7));
        assert_eq!(parse_parent(b"42 (x)"), None);
        assert_eq!(parse_parent(b""), None);
    }
}
