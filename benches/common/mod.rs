//! What benchmarks that write a page have in common: where their figures go, and descriptors for many connections.

use std::fs::{read_to_string, write};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A page has its figures between these; what people wrote around them stays.
const MARKS: [&str; 2] = ["<!-- figures -->\n", "<!-- end of figures -->"];

pub fn publish(document: &str, figures: &str) {
    let page = read_to_string(document).expect("the benchmark runs in the package's folder");
    let (before, rest) = page.split_once(MARKS[0]).expect("the first mark is there");
    let (_, after) = rest.split_once(MARKS[1]).expect("the second mark is there");
    write(document, format!("{before}{}\n{figures}\n{}{after}", MARKS[0], MARKS[1])).expect("writable");
}

pub fn raise_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit");
}
