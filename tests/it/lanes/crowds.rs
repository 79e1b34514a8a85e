//! Many connections at once, and more than there are descriptors for: those that are open go on, those that come wait,
//! and ensign spends nothing on waiting.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::lane::{self, LINK, Lane, to};
use crate::support::load::{DEADLINE, connect};
use crate::support::namespace::{Place, Sandbox, ran_inside};
use crate::support::server::{echo, forget_what_has_ended};
use crate::support::wait;

/// A link to an echo, and how many sockets ensign has when nobody is connected.
fn open(sandbox: Sandbox) -> (Lane, usize) {
    forget_what_has_ended();
    let listener = TcpListener::bind("127.0.1.1:0").expect("bind");
    let lane = Lane::start_in(sandbox, &to(&[listener.local_addr().expect("bound")], "round-robin"), "");
    echo(listener);
    let least = lane.sockets();
    says(&mut connect(LINK).expect("a connection"), 0);
    all_are_closed(&lane, least);
    (lane, least)
}

fn all_are_closed(lane: &Lane, least: usize) {
    wait::until_true("every connection to be closed", || lane.sockets() <= least);
}

fn is_answered(client: &mut TcpStream, number: u64) -> std::io::Result<bool> {
    let mut heard = [0; 8];
    client.read_exact(&mut heard)?;
    Ok(heard == number.to_be_bytes())
}

/// Says a number, and hears it. How long that took.
fn says(client: &mut TcpStream, number: u64) -> Duration {
    let begun = Instant::now();
    client.write_all(&number.to_be_bytes()).expect("it is open");
    assert!(is_answered(client, number).expect("it is open"), "something else than {number}");
    begun.elapsed()
}

#[test]
fn five_thousand_idle_connections_cost_two_hundred_at_work_nothing() {
    if ran_inside(five_thousand_idle_connections_cost_two_hundred_at_work_nothing) {
        return;
    }
    const IDLE: u64 = 5000;
    const AT_WORK: u64 = 200;
    const WORDS: u64 = 50;
    lane::descriptors(2 * (IDLE + AT_WORK) + 500);
    let (lane, least) = open(Sandbox::new(Place::Guest));
    let begun = Instant::now();
    let mut idle: Vec<TcpStream> = (0..IDLE).map(|_| connect(LINK).expect("a connection")).collect();
    for (number, client) in (0..).zip(&mut idle) {
        says(client, number);
    }
    println!("{IDLE} connections open after {:?}", begun.elapsed());
    let worker = |number: u64| {
        thread::spawn(move || {
            let mut client = connect(LINK).expect("a connection");
            let mut took: Vec<Duration> =
                (0..WORDS).map(|word| says(&mut client, number << 32 | word)).collect();
            // One that streams, too: more than a word at a time.
            let (sent, mut heard) = (vec![number.to_be_bytes()[7]; 256 << 10], vec![0; 256 << 10]);
            let mut writer = client.try_clone().expect("a descriptor is free");
            let begun = Instant::now();
            let (heard, sent) = thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&sent).expect("it is open"));
                client.read_exact(&mut heard).expect("it is open");
                (&heard, &sent)
            });
            assert!(heard == sent);
            took.push(begun.elapsed());
            took
        })
    };
    let begun = Instant::now();
    let workers: Vec<_> = (0..AT_WORK).map(worker).collect();
    let mut took: Vec<Duration> =
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic")).collect();
    took.sort();
    let (median, last) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "{} answers within {:?}: half of them in {median:?}, all in {last:?}",
        took.len(),
        begun.elapsed()
    );
    assert!(last < Duration::from_secs(3), "{last:?} for an answer");
    // Nobody was forgotten meanwhile, or mixed up with another.
    for (number, client) in (IDLE..).zip(&mut idle) {
        says(client, number);
    }
    drop(idle);
    all_are_closed(&lane, least);
}

/// Connects until one is not served at once. Those that are served, and that one.
fn fill() -> (Vec<TcpStream>, TcpStream) {
    let mut served = Vec::new();
    loop {
        let mut client = connect(LINK).expect("the kernel takes it");
        let number = served.len() as u64;
        client.write_all(&number.to_be_bytes()).expect("the kernel takes it");
        client.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        match is_answered(&mut client, number) {
            Ok(answered) => assert!(answered),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
                return (served, client);
            }
        }
        served.push(client);
        assert!(served.len() < 1000, "there is no end to the descriptors");
    }
}

/// Lets a hundred more wait, and looks on: those that are open go on, ensign sleeps, and says it once. All who wait.
fn let_wait(
    lane: &Lane,
    served: &mut [TcpStream],
    first: TcpStream,
    complaint: &str,
) -> Vec<(u64, TcpStream)> {
    let mut waiting = vec![(served.len() as u64, first)];
    waiting.extend((1000..1100).map(|number| {
        let mut client = connect(LINK).expect("the kernel takes it");
        client.write_all(&u64::to_be_bytes(number)).expect("the kernel takes it");
        (number, client)
    }));
    let before = lane.cpu_ticks();
    wait::all_through(Duration::from_secs(2), || {});
    let idle = lane.cpu_ticks() - before;
    for (number, client) in (0..).zip(served.iter_mut()) {
        says(client, number);
    }
    println!("{} served, {} wait: {idle}0 ms of CPU in 2 s", served.len(), waiting.len());
    assert!(idle <= 20, "{idle}0 ms of CPU in 2 s");
    assert_eq!(lane.logged(complaint), 1, "lines with {complaint:?}");
    waiting
}

/// Lowers the limit under a running ensign, which reckoned with more.
fn allow_more(lane: &Lane, descriptors: usize) {
    let limit = format!("--nofile={}:1024", lane.limit_for(descriptors));
    let lowered = Command::new("prlimit").args(["--pid", &lane.pid().to_string(), &limit]).status();
    assert!(lowered.expect("prlimit is installed").success());
}

#[test]
fn with_a_small_limit_of_descriptors_connections_wait_for_each_other() {
    if ran_inside(with_a_small_limit_of_descriptors_connections_wait_for_each_other) {
        return;
    }
    let limit = ["prlimit", "--nofile=128:128", "--"].map(Into::into);
    let (lane, least) = open(Sandbox::new(Place::Guest).through(limit.into()));
    let (mut served, first) = fill();
    let waiting = let_wait(&lane, &mut served, first, "the limit of open files has room for");
    drop(served);
    for (number, mut client) in waiting {
        assert!(is_answered(&mut client, number).expect("served at last"));
    }
    all_are_closed(&lane, least);
}

/// A connection takes two.
fn goes_on_after(descriptors: usize) {
    let (lane, least) = open(Sandbox::new(Place::Guest));
    allow_more(&lane, descriptors);
    let (mut served, first) = fill();
    assert_eq!(lane.sockets(), least + descriptors);
    let waiting = let_wait(&lane, &mut served, first, "cannot accept connections for now");
    drop(served);
    for (number, mut client) in waiting {
        assert!(is_answered(&mut client, number).expect("served at last"));
    }
    for number in 0..100 {
        says(&mut connect(LINK).expect("a connection"), number);
    }
    all_are_closed(&lane, least);
}

#[test]
fn out_of_descriptors_accepting_pauses_and_goes_on() {
    if !ran_inside(out_of_descriptors_accepting_pauses_and_goes_on) {
        goes_on_after(20);
    }
}

#[test]
fn with_the_last_descriptor_taken_for_half_a_connection_accepting_pauses_and_goes_on() {
    if !ran_inside(with_the_last_descriptor_taken_for_half_a_connection_accepting_pauses_and_goes_on) {
        goes_on_after(21);
    }
}

/// At whatever moment there are descriptors again: it goes through all of ensign's pause between two looks for one.
#[test]
fn who_was_let_in_with_the_last_descriptor_gets_the_next_one() {
    if ran_inside(who_was_let_in_with_the_last_descriptor_gets_the_next_one) {
        return;
    }
    let (lane, least) = open(Sandbox::new(Place::Guest));
    let room = 5;
    allow_more(&lane, 2 * room + 1);
    for moment in 0..10 {
        let let_in = |sockets: usize| {
            wait::until_true("clients to be let in", || lane.sockets() == least + sockets);
        };
        let served: Vec<_> = (0..room).map(|_| connect(LINK).expect("a connection")).collect();
        let_in(2 * room);
        let mut first = connect(LINK).expect("the kernel takes it");
        let_in(2 * room + 1);
        // Their pause begins later than that of the first.
        wait::be_late(Duration::from_millis(50));
        let later: Vec<_> = (0..room).map(|_| connect(LINK).expect("the kernel takes it")).collect();
        wait::be_late(Duration::from_millis(10 * moment));
        drop(served);
        says(&mut first, moment);
        drop((first, later));
        all_are_closed(&lane, least);
    }
}
