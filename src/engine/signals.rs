//! Whether a fault was the engine's own. A parent sees only that its child ended with `SIGSEGV`, not whether a null
//! pointer or somebody's `kill` did it; the child itself is told. For a signal that was sent it ends with an exit code
//! that says so, and no window is blamed; a real fault goes on as if nobody had looked.

use std::sync::OnceLock;

/// Exit code of an engine that ended because a fault's signal was sent to it.
pub(super) const EXIT_SIGNAL_WAS_SENT: i32 = 97;

/// Signals with which a process ends of itself.
const FAULTS: [i32; 7] = [
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
];

/// Whether a process may end with that signal without anybody sending it.
pub(super) fn is_fault(signal: i32) -> bool {
    FAULTS.contains(&signal)
}

/// What was there before: Rust's own handler tells a stack overflow.
static BEFORE: OnceLock<Vec<(i32, libc::sigaction)>> = OnceLock::new();

/// Puts the handler in; once a process.
#[allow(unsafe_code, reason = "installs signal handlers")]
pub(super) fn watch_faults() {
    let mut before = Vec::with_capacity(FAULTS.len());
    for signal in FAULTS {
        // SAFETY: all zeros is a valid `sigaction`; the pointers are to locals that outlive the call.
        let old = unsafe {
            let mut old = std::mem::zeroed::<libc::sigaction>();
            libc::sigaction(signal, std::ptr::null(), &raw mut old);
            old
        };
        before.push((signal, old));
    }
    if BEFORE.set(before).is_err() {
        return;
    }
    for signal in FAULTS {
        // SAFETY: as above; the handler is a plain function that calls only async-signal-safe functions. SA_ONSTACK: a
        // stack overflow leaves no room on the thread's own stack.
        unsafe {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

#[allow(unsafe_code, reason = "a signal handler")]
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, and `si_pid` is set for signals that were sent; `getpid`, `_exit`,
    // `sigaction` and `raise` are async-signal-safe; `BEFORE` was set before any handler was installed, so reading it neither
    // waits nor allocates.
    unsafe {
        // SI_USER (`kill`), SI_QUEUE and SI_TKILL (`raise`, `abort`) are not above 0; the kernel's own codes are.
        let was_sent = !info.is_null() && (*info).si_code <= 0 && (*info).si_pid() != libc::getpid();
        if was_sent {
            libc::_exit(EXIT_SIGNAL_WAS_SENT);
        }
        // A real fault happens again on return, and meets what was there.
        let before = BEFORE
            .get()
            .and_then(|all| all.iter().find(|(number, _)| *number == signal));
        if let Some((_, action)) = before {
            libc::sigaction(signal, action, std::ptr::null_mut());
        }
        if !info.is_null() && (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}
