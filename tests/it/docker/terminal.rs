//! `docker run -t` and `-it`: main has the terminal, and ^C reaches it.

use crate::support::docker::Engine;
use crate::support::docker::image::Image;
use crate::support::terminal::Terminal;

/// The groups of main and of the terminal's foreground, from `actor tty`'s first line.
fn has_foreground(terminal: &Terminal) -> bool {
    terminal.until(terminal.until(0, "tpgid="), "\r\n");
    let shown = terminal.shown();
    let group = |key: &str| shown.split_once(key).and_then(|(_, rest)| rest.split_whitespace().next());
    group(" pgid=").is_some() && group(" pgid=") == group("tpgid=")
}

#[test]
fn main_has_the_foreground_reads_what_is_typed_and_gets_the_interrupt() {
    let Some(engine) = Engine::start() else { return };
    let image = engine.import(&Image::scratch());
    // As PID 1, and under the engine's own init.
    for options in [&["-it"][..], &["-it", "--init"]] {
        let mut terminal = Terminal::new();
        let mut client = engine.run_on(&terminal, options, &image, &["/ensign", "--", "/actor", "tty"]);
        assert!(has_foreground(&terminal), "{}", terminal.shown());
        terminal.send("hello\r");
        terminal.until(0, "read hello");
        terminal.send("quit\r");
        assert_eq!(client.wait().expect("our child").code(), Some(0), "{options:?}");

        let mut terminal = Terminal::new();
        let command = ["/ensign", "--", "/actor", "signals", "--until", "2"];
        let mut client = engine.run_on(&terminal, options, &image, &command);
        terminal.until(0, "ready");
        terminal.send("\x03");
        assert_eq!(client.wait().expect("our child").code(), Some(0), "{options:?}");
        assert_eq!(terminal.shown().matches("main 2").count(), 1, "{}", terminal.shown());
    }
}

#[test]
fn a_terminal_that_nobody_types_on_is_main_s_too() {
    let Some(engine) = Engine::start() else { return };
    let (image, name) = (engine.import(&Image::scratch()), engine.name("shown"));
    let terminal = Terminal::new();
    let options = ["-t", "--name", &name];
    let mut client = engine.run_on(&terminal, &options, &image, &["/ensign", "--", "/actor", "tty"]);
    assert!(has_foreground(&terminal), "{}", terminal.shown());
    engine.ok(&["stop", &name]);
    assert_eq!(client.wait().expect("our child").code(), Some(143));
}
