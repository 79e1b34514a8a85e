//! Starting a process: a vfork-like clone, so that the caller goes on only when the new program runs or could not be
//! started. Its group, its terminal and its clean signal state exist before anything can be sent to it, an error
//! comes back with its step, and no page table is copied.
//!
//! Between clone and exec the child shares our memory: it makes system calls on what was prepared before, no more.

use std::ffi::{CString, OsString, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use super::process::Pid;

/// What is to run, and as what.
#[derive(Debug)]
pub struct Command<'a> {
    /// The program (looked for in the new environment's PATH unless it has a slash) and its arguments.
    pub argv: &'a [OsString],
    /// The whole environment: `KEY=VALUE` each.
    pub env: &'a [OsString],
    pub directory: Option<&'a Path>,
    pub identity: Option<&'a Identity>,
    pub limits: &'a [ResourceLimit],
    pub privileges: Privileges,
    pub terminal: TerminalUse,
    pub orphaned: Orphaned,
    pub stdio: Stdio,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// One limit in setrlimit(2)'s own terms.
#[derive(Debug, Clone, Copy)]
pub struct ResourceLimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privileges {
    Keep,
    /// No set-uid program raises them again (PR_SET_NO_NEW_PRIVS).
    NoNew,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminalUse {
    LeaveAlone,
    /// Make the new group the foreground group of the terminal on stdin.
    TakeForeground,
}

/// What happens to it when we die without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphaned {
    /// Nothing: the kernel ends a PID namespace with its PID 1.
    Survives,
    /// SIGKILL, as in a PID namespace.
    IsKilled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    Inherit,
    /// /dev/null for stdin, where there is one: whoever reads the terminal from the background is stopped.
    NoInput,
    /// /dev/null for all three, where there is one.
    Null,
}

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("command `{}` {}", .program.display(), describe_exec(.source))]
    Exec { program: PathBuf, source: io::Error },
    #[error("cannot {step} for command `{}`: {source}", .program.display())]
    Prepare { program: PathBuf, step: Step, source: io::Error },
    #[error("an argument or environment variable of `{}` has a NUL byte in it", .program.display())]
    Nul { program: PathBuf },
}

/// What can fail on the way to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Clone,
    Group,
    Terminal,
    Limits,
    Groups,
    Gid,
    Uid,
    Directory,
    NoNewPrivileges,
    DeathSignal,
    Exec,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clone => "create a process",
            Self::Group => "make a process group",
            Self::Terminal => "hand over the terminal",
            Self::Limits => "set a resource limit",
            Self::Groups => "set the supplementary groups",
            Self::Gid => "set the group id",
            Self::Uid => "set the user id",
            Self::Directory => "enter the working directory",
            Self::NoNewPrivileges => "set no_new_privileges",
            Self::DeathSignal => "set the parent-death signal",
            Self::Exec => "execute",
        })
    }
}

fn describe_exec(source: &io::Error) -> String {
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => "not found".to_owned(),
        _ => format!("can't be executed: {source}"),
    }
}

/// Everything the child needs, made before it exists. Lives on the caller's stack while the child runs.
struct Plan {
    /// Where to look for the program, in order.
    candidates: Vec<CString>,
    argv: Vec<*const c_char>,
    /// `/bin/sh`, room for the candidate, then the arguments: for a script without `#!`, as execvp does.
    script_argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    directory: Option<CString>,
    identity: Option<Identity>,
    limits: Vec<ResourceLimit>,
    privileges: Privileges,
    terminal: TerminalUse,
    orphaned: Orphaned,
    stdio: Stdio,
    parent: Pid,
    failed: Option<(Step, c_int)>,
}

/// Starts it and gives its process id. When this returns, the program has been executed.
pub fn spawn(command: &Command<'_>) -> Result<Pid, SpawnError> {
    let program = PathBuf::from(command.argv.first().cloned().unwrap_or_default());
    let nul = || SpawnError::Nul { program: program.clone() };
    let argv = c_strings(command.argv.iter().map(|arg| arg.as_bytes().to_vec())).ok_or_else(nul)?;
    let envp = c_strings(command.env.iter().map(|entry| entry.as_bytes().to_vec())).ok_or_else(nul)?;
    let candidates = c_strings(candidates(&program, command.env)).ok_or_else(nul)?;
    let directory = command.directory.map(|path| CString::new(path.as_os_str().as_bytes()));
    let arguments = pointers(&argv);
    let shell = [c"/bin/sh".as_ptr(), ptr::null()];
    let mut plan = Plan {
        candidates,
        script_argv: shell.into_iter().chain(arguments.iter().skip(1).copied()).collect(),
        argv: arguments,
        envp: pointers(&envp),
        directory: directory.transpose().map_err(|_| nul())?,
        identity: command.identity.cloned(),
        limits: command.limits.to_vec(),
        privileges: command.privileges,
        terminal: command.terminal,
        orphaned: command.orphaned,
        stdio: command.stdio,
        parent: nix::unistd::getpid().as_raw(),
        failed: None,
    };
    let cloned = keep_dumpable(|| clone(&mut plan));
    match cloned {
        Err(source) => Err(SpawnError::Prepare { program, step: Step::Clone, source }),
        Ok(pid) => match plan.failed {
            None => Ok(pid),
            // The child has left already; the reaper collects it like any stranger.
            Some((step, errno)) => {
                let source = io::Error::from_raw_os_error(errno);
                Err(match step {
                    Step::Exec => SpawnError::Exec { program, source },
                    step => SpawnError::Prepare { program, step, source },
                })
            }
        },
    }
}

/// The paths that execvp would try: the program itself if it has a slash, else along the child's PATH.
fn candidates(program: &Path, env: &[OsString]) -> Vec<Vec<u8>> {
    let name = program.as_os_str().as_bytes();
    if name.is_empty() || name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    let path = env.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    let folders = path.unwrap_or(b"/bin:/usr/bin").split(|&byte| byte == b':');
    folders
        .map(|folder| if folder.is_empty() { b"." } else { folder })
        .map(|folder| [folder, b"/", name].concat())
        .collect()
}

fn c_strings(strings: impl IntoIterator<Item = Vec<u8>>) -> Option<Vec<CString>> {
    strings.into_iter().map(|bytes| CString::new(bytes).ok()).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// A change of identity on shared memory makes that memory undumpable, ours included, and with it /proc/1/fd closed even
/// to the container's root, to whose scripts it is a way to the log.
fn keep_dumpable<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: plain system calls without memory.
    let before = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
    let done = work();
    if before == 1 {
        // SAFETY: as above.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
    }
    done
}

fn clone(plan: &mut Plan) -> io::Result<Pid> {
    const STACK: usize = 32 * 1024;
    let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: CLONE_VFORK keeps this thread suspended until the child has executed or left, so that `plan` and
    // `stack` outlive its use of them, and nothing else runs on this stack. All signals are blocked, so no handler
    // runs in the child on shared memory.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        libc::clone(child, top.cast(), flags, ptr::from_mut(plan).cast())
    };
    if pid == -1 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` passes its `&mut Plan` and waits; nobody else touches it meanwhile.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    let Err((step, errno)) = become_program(plan);
    plan.failed = Some((step, errno));
    // SAFETY: leaves without running anything that belongs to the parent.
    unsafe { libc::_exit(127) }
}

fn become_program(plan: &mut Plan) -> Result<std::convert::Infallible, (Step, c_int)> {
    // SAFETY: system calls on data that was prepared before; raw ones where the C library's wrapper would act on all
    // threads of the parent (set*id) or refuse (its two private signals).
    unsafe {
        try_step(Step::Group, libc::setpgid(0, 0).into())?;
        if plan.terminal == TerminalUse::TakeForeground {
            let group: c_int = libc::getpid();
            let taken = libc::ioctl(0, libc::TIOCSPGRP, &raw const group);
            // No terminal any more (hung up, closed): not a reason to fail.
            if taken == -1 && !matches!(errno(), libc::ENOTTY | libc::ENXIO | libc::EBADF | libc::EIO) {
                return Err((Step::Terminal, errno()));
            }
        }
        let silenced = match plan.stdio {
            Stdio::Inherit => 0,
            Stdio::NoInput => 1,
            Stdio::Null => 3,
        };
        if silenced > 0 {
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            for fd in 0..silenced {
                if null != -1 {
                    libc::dup2(null, fd);
                }
            }
        }
        for limit in &plan.limits {
            let value = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
            let set = libc::syscall(
                libc::SYS_prlimit64,
                0,
                limit.resource,
                &raw const value,
                ptr::null_mut::<libc::rlimit>(),
            );
            try_step(Step::Limits, set)?;
        }
        if let Some(identity) = &plan.identity {
            let groups = identity.groups.as_ptr();
            let set = libc::syscall(libc::SYS_setgroups, identity.groups.len(), groups);
            // An unprivileged "switch" to oneself keeps the groups that it has.
            if !(set == -1 && errno() == libc::EPERM && libc::getuid() == identity.uid) {
                try_step(Step::Groups, set)?;
            }
            let gid = identity.gid;
            try_step(Step::Gid, libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            let uid = identity.uid;
            try_step(Step::Uid, libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        }
        if let Some(directory) = &plan.directory {
            try_step(Step::Directory, libc::chdir(directory.as_ptr()).into())?;
        }
        if plan.privileges == Privileges::NoNew {
            let set = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            try_step(Step::NoNewPrivileges, set.into())?;
        }
        // After the change of identity, which clears it.
        if plan.orphaned == Orphaned::IsKilled {
            let set = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            try_step(Step::DeathSignal, set.into())?;
            if libc::getppid() != plan.parent {
                libc::_exit(127);
            }
        }
        reset_dispositions();
        let none = 0_u64;
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u64>(),
            8,
        );
        Err((Step::Exec, execute(plan)))
    }
}

/// What we or our parent ignored would stay ignored across exec. The table is the child's own.
fn reset_dispositions() {
    // Zero is the default disposition in every architecture's layout, which is never larger than this.
    let default = [0_u64; 8];
    for signal in 1..=super::signals::MAX_SIGNAL {
        // SAFETY: gives the kernel an all-zero sigaction; KILL and STOP give an error that nobody needs.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), 8);
        }
    }
}

/// execvp, without a look at the environment and without allocating. Gives the errno that says most.
fn execute(plan: &mut Plan) -> c_int {
    let mut worst = libc::ENOENT;
    for candidate in &plan.candidates {
        // SAFETY: the arrays end with a null pointer and point to strings that outlive this call.
        unsafe { libc::execve(candidate.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            libc::ENOEXEC => {
                if let Some(place) = plan.script_argv.get_mut(1) {
                    *place = candidate.as_ptr();
                }
                // SAFETY: as above.
                unsafe { libc::execve(c"/bin/sh".as_ptr(), plan.script_argv.as_ptr(), plan.envp.as_ptr()) };
                return libc::ENOEXEC;
            }
            other => return other,
        }
    }
    worst
}

fn try_step(step: Step, result: i64) -> Result<(), (Step, c_int)> {
    if result == -1 { Err((step, errno())) } else { Ok(()) }
}

fn errno() -> c_int {
    nix::errno::Errno::last_raw()
}
