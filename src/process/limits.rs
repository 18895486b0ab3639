//! What a child may take: limits set from outside before it starts, and those it sets on itself.

use std::io;
use std::process::Command;
use std::time::Duration;

/// Bounds on a program, set between `fork` and `exec`. Only Unix has them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Processor time; `SIGXCPU` ends it then.
    pub cpu: Option<Duration>,
    /// File descriptors at once.
    pub open_files: Option<u64>,
    /// Largest file it may write; pipes do not count.
    pub file_size_bytes: Option<u64>,
}

/// Bounds that a child of this very program sets on itself before it touches anything from outside.
#[derive(Debug, Clone, Copy)]
pub struct Confinement {
    /// Address space beyond what is mapped when the bound is set: programs with GPU backends map gigabytes of code.
    pub memory_bytes: u64,
    /// Processor time in all.
    pub cpu: Duration,
    /// File descriptors at once, those that are open already among them.
    pub open_files: u64,
    /// Whether files may still be opened for reading. None may be written, and no network address reached.
    pub may_read_files: bool,
}

/// Makes `command` die with the thread that starts it, and sets `limits`.
#[cfg(unix)]
#[allow(
    unsafe_code,
    reason = "std offers no safe way to set limits on another program"
)]
pub(super) fn bind(command: &mut Command, limits: Limits) {
    use std::os::unix::process::CommandExt;

    // Ctrl-C in a terminal goes to the whole group; only this program shall hear it.
    command.process_group(0);
    #[cfg(target_os = "linux")]
    let parent = rustix::process::getpid();
    let set = move || -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have ended before the line above.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(
                    rustix::io::Errno::SRCH.raw_os_error(),
                ));
            }
        }
        apply(limits)
    };
    // SAFETY: between `fork` and `exec` only functions that are async-signal-safe may run. `set` makes system calls
    // through rustix, which neither allocate nor lock, and captures plain numbers.
    unsafe { command.pre_exec(set) };
}

#[cfg(not(unix))]
pub(super) fn bind(_: &mut Command, _: Limits) {}

#[cfg(unix)]
fn apply(limits: Limits) -> io::Result<()> {
    use rustix::process::Resource;

    if let Some(cpu) = limits.cpu {
        set(Resource::Cpu, cpu.as_secs().max(1), CPU_GRACE_SECONDS)?;
    }
    if let Some(files) = limits.open_files {
        set(Resource::Nofile, files, 0)?;
    }
    if let Some(bytes) = limits.file_size_bytes {
        set(Resource::Fsize, bytes, 0)?;
    }
    Ok(())
}

/// Seconds between `SIGXCPU` and `SIGKILL`, which looks like a kill from outside.
#[cfg(unix)]
const CPU_GRACE_SECONDS: u64 = 5;

/// Lowers a limit to `soft`; never raises one.
#[cfg(unix)]
fn set(resource: rustix::process::Resource, soft: u64, grace: u64) -> io::Result<()> {
    use rustix::process::{Rlimit, getrlimit, setrlimit};

    let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit {
        current: Some(soft.min(most)),
        maximum: Some(soft.saturating_add(grace).min(most)),
    };
    setrlimit(resource, limit)?;
    Ok(())
}

/// Raises this process's limit of open files as far as it may be raised, to `most` at the most, and returns it; `None`
/// where there is no such limit. Children inherit it, and decoders lower theirs.
#[cfg(unix)]
pub fn raise_open_files(most: u64) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let now = getrlimit(Resource::Nofile);
    let soft = now.current.unwrap_or(u64::MAX);
    let wanted = most.min(now.maximum.unwrap_or(u64::MAX));
    if soft >= wanted {
        return Some(soft);
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: now.maximum,
    };
    Some(setrlimit(Resource::Nofile, raised).map_or(soft, |()| wanted))
}

/// There is none.
#[cfg(not(unix))]
pub fn raise_open_files(_: u64) -> Option<u64> {
    None
}

/// Tells the system to end this process before others when memory is short; `badness` is 0 to 1000 (Linux,
/// `/proc/pid/oom_score_adj`). Where that cannot be said, nothing happens.
pub fn end_first_when_memory_is_short(badness: u16) {
    #[cfg(target_os = "linux")]
    let _ = std::fs::write("/proc/self/oom_score_adj", badness.to_string());
    #[cfg(not(target_os = "linux"))]
    let _ = badness;
}

/// Sets bounds on this process; to be called before it starts a thread. Says whether files and addresses are out of
/// reach, which takes a kernel with Landlock.
///
/// # Errors
///
/// The system's, when a limit is refused.
#[cfg(unix)]
pub fn confine(bounds: &Confinement) -> io::Result<bool> {
    use rustix::process::Resource;

    // Before files can no longer be opened.
    let mapped = mapped_bytes();
    #[cfg(target_os = "linux")]
    let restricted = restrict_files(bounds.may_read_files)?;
    #[cfg(not(target_os = "linux"))]
    let restricted = false;
    apply(Limits {
        cpu: Some(bounds.cpu),
        open_files: Some(bounds.open_files),
        file_size_bytes: Some(0),
    })?;
    // A recording has no business in a core file.
    set(Resource::Core, 0, 0)?;
    // macOS refuses this limit, and does not keep it where it does not refuse.
    #[cfg(not(target_os = "macos"))]
    if let Some(mapped) = mapped {
        set(Resource::As, mapped.saturating_add(bounds.memory_bytes), 0)?;
    }
    #[cfg(target_os = "macos")]
    let _ = mapped;
    Ok(restricted)
}

/// Without limits of its kind on this system.
#[cfg(not(unix))]
pub fn confine(_: &Confinement) -> io::Result<bool> {
    Ok(false)
}

/// Processor time this process may take from now on, within the bound set by [`confine`]: progress buys the next piece
/// of work.
///
/// # Errors
///
/// The system's.
#[cfg(unix)]
pub fn allow_cpu(more: Duration) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).tv_sec as u64;
    let maximum = getrlimit(Resource::Cpu).maximum;
    // The kernel counts whole seconds.
    let soft = used.saturating_add(more.as_secs().max(1)).saturating_add(1);
    let most = maximum.map_or(u64::MAX, |maximum| maximum.saturating_sub(CPU_GRACE_SECONDS));
    setrlimit(
        Resource::Cpu,
        Rlimit {
            current: Some(soft.min(most)),
            maximum,
        },
    )?;
    Ok(())
}

/// Without limits of its kind on this system.
#[cfg(not(unix))]
pub fn allow_cpu(_: Duration) -> io::Result<()> {
    Ok(())
}

/// Bytes of address space in use (proc_pid_statm(5)); `None` where the system does not say.
#[cfg(unix)]
fn mapped_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').next()?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// From here on no file can be opened for writing, and no address reached, where the kernel has Landlock (5.13; 6.7
/// for addresses).
#[cfg(target_os = "linux")]
fn restrict_files(may_read: bool) -> io::Result<bool> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreatedAttr, RulesetStatus,
    };

    // The newest that this program was written for; older kernels give what they have.
    let abi = ABI::V5;
    let refused = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(Ruleset::create)
        .map_err(|e| refused(&e))?;
    if may_read {
        let root = PathFd::new("/").map_err(|e| refused(&e))?;
        rules = rules
            .add_rule(PathBeneath::new(root, AccessFs::from_read(abi)))
            .map_err(|e| refused(&e))?;
    }
    let status = rules.restrict_self().map_err(|e| refused(&e))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Ends this child of the program when its parent ends: for its first lines, beside watching its input.
pub fn die_with_parent() {
    // The signal is set by `bind` already; a child that was started by hand has none.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

/// Ends this process at once: no destructors of C or C++ run, which other threads may still be using.
#[allow(unsafe_code, reason = "std's `exit` runs them")]
pub fn exit_now(code: i32) -> ! {
    #[cfg(unix)]
    // SAFETY: `_exit` takes any number, touches no memory of this process and does not return.
    unsafe {
        libc::_exit(code)
    }
    #[cfg(not(unix))]
    std::process::exit(code)
}

/// Takes standard output for frames and points its descriptor at standard error: libraries print now and then.
///
/// # Errors
///
/// The system's.
#[cfg(unix)]
pub fn claim_stdout() -> io::Result<std::fs::File> {
    let pipe = rustix::io::dup(rustix::stdio::stdout())?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(std::fs::File::from(pipe))
}

/// As on Unix, but what libraries print would still go to the pipe.
#[cfg(not(unix))]
pub fn claim_stdout() -> io::Result<std::fs::File> {
    use std::os::windows::io::AsHandle;
    Ok(std::fs::File::from(
        io::stdout().as_handle().try_clone_to_owned()?,
    ))
}

/// Replaces this process by another program, which keeps its limits; returns only when that fails.
#[cfg(unix)]
pub fn become_program(path: &str, arguments: &[String]) -> io::Error {
    use std::os::unix::process::CommandExt;
    Command::new(path).args(arguments).exec()
}

/// Where a process cannot be replaced it waits for the other one, and ends with its code.
#[cfg(not(unix))]
pub fn become_program(path: &str, arguments: &[String]) -> io::Error {
    match Command::new(path).args(arguments).status() {
        Ok(status) => exit_now(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::Program;
    use super::*;

    /// Not a test: what the one below starts in a process of its own.
    #[test]
    #[ignore = "confines the process it runs in"]
    fn confined() {
        let bounds = |may_read_files| Confinement {
            memory_bytes: 64 << 20,
            cpu: Duration::from_secs(60),
            open_files: 16,
            may_read_files,
        };
        let folder = std::env::temp_dir();
        let landlock = confine(&bounds(true)).unwrap();
        let made = std::fs::File::create_new(folder.join("made-by-a-confined-child"));
        let may_read = std::fs::read("/proc/self/exe").is_ok();
        let connected = std::net::TcpStream::connect("127.0.0.1:9").unwrap_err().kind();
        confine(&bounds(false)).unwrap();
        let reads = std::fs::File::open("/etc/passwd").is_ok();
        let much = std::hint::black_box(Vec::<u8>::new())
            .try_reserve(256 << 20)
            .is_ok();
        println!(
            "landlock {landlock} made {} may_read {may_read} connected {connected:?} reads {reads} much {much} end",
            made.is_ok()
        );
    }

    #[test]
    fn a_confined_process_writes_no_file_and_takes_no_more_memory_than_it_may() {
        let said = Program::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "process::limits::tests::confined",
                "--ignored",
                "--nocapture",
            ])
            .args(["--test-threads", "1"])
            .capture(Duration::from_secs(60), 1 << 16)
            .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
        assert!(
            said.contains("may_read true") && said.contains("much false"),
            "{said}"
        );
        if said.contains("landlock true") {
            assert!(said.contains("made false"), "{said}");
            assert!(said.contains("connected PermissionDenied"), "{said}");
            assert!(said.contains("reads false"), "{said}");
        }
    }
}
