//! The actor's system calls: the only place with `unsafe`. Signals go through the raw calls, because libc refuses to
//! touch 32 and 33 and a test must. Masks are the kernel's: bit N-1 is signal N.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;

use libc::{c_int, c_long, pid_t};

use crate::fail;

const MASK_BYTES: usize = size_of::<u64>();

/// The kernel's `struct sigaction`, which is not libc's. Zeroes besides the handler: no flags, no mask.
#[repr(C)]
struct Action {
    handler: usize,
    rest: [u64; 4],
}

pub fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

pub fn set_mask(mask: u64) {
    // SAFETY: the kernel reads eight bytes from `mask`, which outlives the call, and writes nothing.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, 0usize, MASK_BYTES)
    };
}

pub fn set_ignored(signal: c_int) {
    set_handler(signal, libc::SIG_IGN);
}

pub fn set_default(signal: c_int) {
    set_handler(signal, libc::SIG_DFL);
}

/// Fails for KILL and STOP, which is what a caller that walks over all of them wants.
fn set_handler(signal: c_int, handler: usize) {
    let action = Action { handler, rest: [0; 4] };
    // SAFETY: `Action` is at least as large as the kernel's struct; the handler is IGN or DFL, so no code of ours
    // ever runs as one.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, 0usize, MASK_BYTES) };
}

/// Waits for one of the (blocked) signals in `mask` and takes it.
pub fn next_signal(mask: u64) -> c_int {
    loop {
        // SAFETY: the kernel reads eight bytes from `mask`; information and timeout are null, which it allows.
        let signal =
            unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const mask, 0usize, 0usize, MASK_BYTES) };
        if signal > 0 {
            return signal as c_int;
        }
    }
}

pub fn send(pid: pid_t, signal: c_int) -> bool {
    // SAFETY: plain numbers in, no memory involved.
    unsafe { libc::kill(pid, signal) == 0 }
}

pub fn pause() {
    // SAFETY: takes nothing and touches nothing.
    unsafe { libc::pause() };
}

/// 0 in the child. The caller has no threads yet, so the child may go on as it likes.
pub fn fork() -> pid_t {
    // SAFETY: called before any thread is started, so no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => fail(&format!("fork: {}", io::Error::last_os_error())),
        pid => pid,
    }
}

pub fn wait(pid: pid_t) {
    // SAFETY: a null status is allowed.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } == -1 {
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

pub fn exit_now(code: c_int) -> ! {
    // SAFETY: ends the process; nothing buffered is ours to lose, `say` flushes each line.
    unsafe { libc::_exit(code) }
}

/// From now on nobody can connect, and whoever waits in `accept` is told so.
pub fn stop_listening(listener: &std::net::TcpListener) {
    // SAFETY: a descriptor that is open, and no memory involved.
    unsafe { libc::shutdown(std::os::fd::AsRawFd::as_raw_fd(listener), libc::SHUT_RD) };
}

pub fn pid() -> pid_t {
    std::process::id() as pid_t
}

pub fn group() -> pid_t {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::getpgrp() }
}

pub fn session() -> pid_t {
    // SAFETY: of the calling process; touches no memory.
    unsafe { libc::getsid(0) }
}

pub fn new_session() {
    // SAFETY: touches no memory.
    if unsafe { libc::setsid() } == -1 {
        fail(&format!("setsid: {}", io::Error::last_os_error()));
    }
}

/// The foreground group of the terminal, asked through whichever of 0-2 is one; -1 without.
pub fn foreground() -> pid_t {
    // SAFETY: numbers in, a number out; a descriptor that is closed or no terminal gives -1.
    (0..3).map(|fd| unsafe { libc::tcgetpgrp(fd) }).find(|group| *group > 0).unwrap_or(-1)
}

pub fn take_terminal() {
    // SAFETY: TIOCSCTTY takes a number, no pointer.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } == -1 {
        fail(&format!("TIOCSCTTY: {}", io::Error::last_os_error()));
    }
}

pub fn set_window(rows: u16, columns: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize, which outlives the call.
    if unsafe { libc::ioctl(0, libc::TIOCSWINSZ, &raw const size) } == -1 {
        fail(&format!("TIOCSWINSZ: {}", io::Error::last_os_error()));
    }
}

pub fn parent_death_signal() -> c_int {
    let mut signal: c_int = 0;
    // SAFETY: the kernel writes one int through the pointer.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
    signal
}

/// Asks each number in turn, because opening /proc/self/fd would add one.
pub fn open_fds() -> Vec<c_int> {
    // SAFETY: F_GETFD takes and gives numbers.
    (0..1024).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1).collect()
}

/// Opens /dev/null until `last` is taken, inheritable.
pub fn fill_fds(last: c_int) {
    // SAFETY: the path is a C string literal.
    while (0..last).contains(&unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) }) {}
}

pub fn set_umask(mask: libc::mode_t) {
    // SAFETY: a number in, a number out.
    unsafe { libc::umask(mask) };
}

pub fn no_core_file() {
    limit(libc::RLIMIT_CORE, 0, 0);
}

/// Limits that no default has, soft and hard apart.
pub fn lower_limits() {
    limit(libc::RLIMIT_CORE, 0, 4096);
    limit(libc::RLIMIT_NOFILE, 333, 555);
    limit(libc::RLIMIT_STACK, 7 << 20, 9 << 20);
}

fn limit(which: libc::__rlimit_resource_t, soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads one rlimit, which outlives the call.
    if unsafe { libc::setrlimit(which, &raw const limit) } == -1 {
        fail(&format!("setrlimit: {}", io::Error::last_os_error()));
    }
}

/// The monotonic clock in nanoseconds; the same one in every process, so stamps can be subtracted.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

pub fn sleep_ms(ms: u64) {
    sleep_us(ms * 1000);
}

pub fn sleep_us(us: u64) {
    std::thread::sleep(std::time::Duration::from_micros(us));
}

/// A descriptor that becomes readable when the process has ended, for a process that is no child.
pub fn open_process(pid: pid_t) -> c_int {
    // SAFETY: numbers in, a descriptor out.
    match unsafe { libc::syscall(libc::SYS_pidfd_open, c_long::from(pid), 0) } {
        -1 => fail(&format!("pidfd of {pid}: {}", io::Error::last_os_error())),
        fd => fd as c_int,
    }
}

pub fn wait_gone(process: c_int) {
    let mut watch = libc::pollfd { fd: process, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, as the count says, and it outlives the call.
    while unsafe { libc::poll(&raw mut watch, 1, -1) } != 1 {}
}

/// Replaces this process; comes back only with the reason why not. With `env` every byte of the block is the caller's.
pub fn exec(argv: Vec<OsString>, env: Option<&[OsString]>) -> io::Error {
    let text = |arg: OsString| CString::new(arg.into_vec()).expect("an argument has no NUL: it was one");
    let argv: Vec<CString> = argv.into_iter().map(text).collect();
    let Some(program) = argv.first() else { return io::ErrorKind::InvalidInput.into() };
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|arg| arg.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let args = pointers(&argv);
    match env {
        // SAFETY: both lists end with a null and point into strings that outlive the call.
        None => unsafe { libc::execvp(program.as_ptr(), args.as_ptr()) },
        Some(env) => {
            let env: Vec<CString> = env.iter().cloned().map(text).collect();
            // SAFETY: as above, for all three lists.
            unsafe { libc::execvpe(program.as_ptr(), args.as_ptr(), pointers(&env).as_ptr()) }
        }
    };
    io::Error::last_os_error()
}
