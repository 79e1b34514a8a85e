//! The container's exit code is main's, and its output is main's alone.

use crate::support::docker::image::Image;
use crate::support::docker::{Engine, mounted};

#[test]
fn the_exit_code_comes_through_and_nothing_is_printed() {
    let Some(engine) = Engine::start() else { return };
    let (image, ensign) = (engine.import(&Image::scratch()), mounted());
    for (command, code) in [
        (&["/actor", "exit", "0"][..], 0),
        (&["/actor", "exit", "7"], 7),
        (&["/actor", "exit", "255"], 255),
        (&["/actor", "kill-self", "9"], 137),
        (&["/actor", "kill-self", "15"], 143),
    ] {
        // As PID 1, and under the engine's own init.
        for options in [&["-v", &ensign][..], &["--init", "-v", &ensign]] {
            let ended = engine.run(options, &image, &[&["/ensign", "--"], command].concat());
            println!("{command:?} {options:?}: {}", ended.code);
            assert_eq!(ended.code, code, "{command:?}: {}", ended.stderr);
            assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""), "{command:?}");
        }
    }
    for (command, code) in [("/missing", 127), ("/", 126)] {
        let ended = engine.run(&[], &image, &["/ensign", "--", command]);
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert!(ended.stdout.is_empty() && ended.stderr.contains(command), "{ended:?}");
    }
    let ended = engine.run(&[], &image, &["/ensign", "-c", "/missing.toml"]);
    assert_eq!(ended.code, 78, "{}", ended.stderr);
}
