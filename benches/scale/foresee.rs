//! A fleet that no machine here could hold: the init's own state machine a hundred thousand times, in a time that is only
//! counted, against a registry that answers at once. Says how a fleet spreads, and nothing of what etcd makes of it.
//! Called by `main`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use ensign::machine::action::Action;
use ensign::machine::event::Answer;
use ensign::machine::time::Time;

use crate::TTL;
use crate::fleet::{Life, Next};
use crate::sheet::Sheet;

const COUNT: usize = 100_000;
const BEAT: Duration = Duration::from_secs(20);
/// Everybody has beaten a few times.
const DOWN: Duration = Duration::from_secs(100);
const UP: Duration = Duration::from_secs(160);
const END: Duration = Duration::from_secs(160 + 3600);
const BUCKET: Duration = Duration::from_millis(100);

/// A fleet that was started within a third of a TTL, a registry that is away for a minute and has lost everything.
pub fn outage(sheet: &mut Sheet) {
    let mut fleet: Vec<Life> = (0..COUNT).map(|who| Life::new(TTL, who as u64)).collect();
    let mut knows_of = vec![false; COUNT];
    let mut back_at = vec![Duration::ZERO; COUNT];
    let mut turns: BinaryHeap<Reverse<(Time, usize)>> = (0..COUNT)
        .map(|who| Reverse((Time::after_start(BEAT.mul_f64(who as f64 / COUNT as f64)), who)))
        .collect();
    let mut asked = vec![0_u32; (END.as_millis() / BUCKET.as_millis()) as usize + 1];
    while let Some(Reverse((now, who))) = turns.pop() {
        let time = now.since_start();
        if time >= END {
            break;
        }
        loop {
            match fleet[who].next(now) {
                Next::Wait(until) => {
                    turns.push(Reverse((until, who)));
                    break;
                }
                Next::Ask(action) => {
                    asked[(time.as_millis() / BUCKET.as_millis()) as usize] += 1;
                    let is_down = (DOWN..UP).contains(&time);
                    let is_known = std::mem::replace(&mut knows_of[who], !is_down);
                    let answer = match &action {
                        _ if is_down => Answer::Failed,
                        Action::Renew { .. } if !is_known => Answer::Lost,
                        _ => Answer::Held { ttl: TTL },
                    };
                    if time >= UP && matches!(answer, Answer::Held { .. }) && back_at[who].is_zero() {
                        back_at[who] = time;
                    }
                    knows_of[who] = matches!(answer, Answer::Held { .. });
                    fleet[who].answered(&action, answer, now);
                }
            }
        }
    }
    tell(&asked, back_at, sheet);
}

fn tell(asked: &[u32], mut back_at: Vec<Duration>, sheet: &mut Sheet) {
    let bucket = |time: Duration| (time.as_millis() / BUCKET.as_millis()) as usize;
    let between = |from: Duration, to: Duration| &asked[bucket(from)..bucket(to)];
    // The most in any whole second.
    let most = |part: &[u32]| {
        part.windows(10).map(|second| f64::from(second.iter().sum::<u32>())).fold(0.0, f64::max)
    };
    let seconds = Duration::from_secs;
    let mut add = |what: &str, value: f64| sheet.add(what, 0, value);
    add("heartbeats/s in peace, mean", COUNT as f64 / (TTL.as_secs_f64() * 0.95 / 3.0));
    add("heartbeats/s in peace, the most", most(between(seconds(60), DOWN)));
    let tried: u32 = between(DOWN + seconds(30), UP).iter().sum();
    add(
        "attempts/s against a registry that is down",
        f64::from(tried) / (UP - DOWN - seconds(30)).as_secs_f64(),
    );
    back_at.sort();
    let after = |share: f64| (back_at[((COUNT - 1) as f64 * share) as usize] - UP).as_secs_f64();
    add("half are back after, s", after(0.5));
    add("all are back after, s", after(1.0));
    for (minutes, label) in [(0, "first"), (5, "6th"), (20, "21st"), (55, "56th")] {
        let from = UP + seconds(2) + seconds(60 * minutes);
        add(
            &format!("heartbeats/s after it, {label} minute, the most"),
            most(between(from, from + seconds(60))),
        );
    }
}
