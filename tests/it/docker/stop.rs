//! `docker stop` takes what main takes, and not noticeably more: side by side with the engine's own init (tini) and
//! with no init at all, on the same image and in turns, so that a busy machine slows all of them.

use std::time::Duration;

use crate::support::docker::Engine;
use crate::support::docker::image::Image;

const ROUNDS: usize = 3;
/// What stands before the command, in the options and in the command.
const UNDER: [(&str, &[&str], &[&str]); 4] = [
    ("nothing", &[], &[]),
    ("tini", &["--init"], &[]),
    ("ensign", &[], &["/ensign", "--"]),
    ("ensign under tini", &["--init"], &["/ensign", "--"]),
];

/// How long `docker stop` takes for each of `UNDER`, sorted.
fn stops(engine: &Engine, image: &str, main: &[&str]) -> [Vec<Duration>; UNDER.len()] {
    let mut took = [const { vec![] }; UNDER.len()];
    for _ in 0..ROUNDS {
        for ((_, options, before), took) in UNDER.iter().zip(&mut took) {
            let container = engine.start_container("stopped", options, image, &[before, main].concat());
            container.until_logged("listening");
            took.push(container.stop());
            assert_eq!(container.wait(), 0);
            container.ok(&["rm", "-f"]);
        }
    }
    for ((name, ..), took) in UNDER.iter().zip(&mut took) {
        took.sort();
        println!("{main:?} under {name}: {took:.2?}");
    }
    took
}

#[test]
fn a_stop_takes_as_long_as_main_and_no_longer() {
    let Some(engine) = Engine::start() else { return };
    let image = engine.import(&Image::scratch());
    let at_once = ["/actor", "http", "0.0.0.0:0"];
    let in_a_second = ["/actor", "http", "0.0.0.0:0", "--term-delay", "1000"];
    for (main, needs) in [(&at_once[..], Duration::ZERO), (&in_a_second, Duration::from_secs(1))] {
        let [nothing, tini, ensign, guest] = stops(&engine, &image, main);
        let slowest = nothing[ROUNDS - 1].max(tini[ROUNDS - 1]);
        for took in [ensign[0], guest[0]] {
            assert!(took >= needs && took <= slowest, "{took:?} for {main:?}, and {slowest:?} without");
        }
    }
}
