//! A panic ends the process. The pool is made to survive a kill; a process that continues with one
//! reactor less would hold hosts' connections without serving them, and nothing would restart it.
//!
//! The build profiles keep unwinding, because the simulator and the tests catch panics. In `varve
//! serve` and `varve pool recover` a hook ends the process instead, after the report is printed.
//! Two kinds of threads continue: those that answer calls and those that archive. They catch their
//! panics, answer with an error, and hold no state of the pool.

use std::backtrace::Backtrace;
use std::io::Write;
use std::panic::PanicHookInfo;

use crate::archive::service::ThreadedOptions;

/// The name prefix of the threads of command plane connections; a number follows.
const CALL_THREADS: &str = "rpc-";

/// From now on, every panic ends the process with SIGABRT, unless it is on a thread that catches
/// its panics.
pub(super) fn install() {
    let archivist = ThreadedOptions::default().name;
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        let is_archivist = name == archivist || name.starts_with(&format!("{archivist}-read"));
        if is_archivist || name.starts_with(CALL_THREADS) {
            return before(info);
        }
        report(&name, info);
        std::process::abort();
    }));
}

fn report(thread: &str, info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("?");
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    // If `RUST_BACKTRACE` enables it.
    let backtrace = Backtrace::capture();
    // If standard error is gone, the report is lost.
    let _ = writeln!(
        std::io::stderr().lock(),
        "varve {}: thread '{thread}' panicked at {place}: {message}\n\
         The process ends at once. What was acknowledged is in the pool; the next start finds it. Please report this.\n\
         stack: {backtrace}",
        env!("CARGO_PKG_VERSION"),
    );
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    use super::*;

    const CHILD: &str = "VARVE_TEST_PANICKING_THREAD";

    /// Runs this test again in a separate process, with a thread of that name.
    fn run(test: &str, thread: &str) -> Output {
        let program = std::env::current_exe().expect("the test's program");
        let mut command = Command::new(program);
        command.args(["--exact", test, "--nocapture"]).env(CHILD, thread).env("RUST_BACKTRACE", "0");
        command.output().expect("it runs")
    }

    #[test]
    fn a_panic_on_a_thread_that_catches_nothing_ends_the_process() {
        if let Ok(name) = std::env::var(CHILD) {
            install();
            let thread = std::thread::Builder::new().name(name).spawn(|| panic!("block {} is no block", 7));
            assert!(thread.expect("a thread").join().is_err());
            println!("the process goes on");
            return;
        }
        let test = "serve::abort::tests::a_panic_on_a_thread_that_catches_nothing_ends_the_process";
        for (thread, ends) in [
            ("reactor0", true),
            ("bdev-2", true),
            ("rpc-5", false),
            ("archive", false),
            ("archive-read1", false),
            ("archive-notes", true),
        ] {
            let output = run(test, thread);
            let (said, complained) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.status.signal() == Some(libc::SIGABRT), ends, "{thread}: {complained}");
            assert_eq!(said.contains("the process goes on"), !ends, "{thread}");
            assert!(
                complained.contains(thread) && complained.contains("block 7 is no block"),
                "{complained}"
            );
            assert!(complained.contains("abort.rs"), "{complained}");
        }
    }
}
