//! The process that owns the file is killed, again and again, in the middle of everything.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use unanimous_core::id::{BranchId, BranchName};
use unanimous_core::{Answer, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};

use crate::common::{Bank, at, done, finish, prepare};

const KILLS: u64 = 30;
const WORKERS: u16 = 4;

/// Where the process that is killed finds the file.
const FILE: &str = "UNANIMOUS_TEST_FILE";

/// What was heard of a branch before the kill.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Heard {
    Asked,
    Yes,
    Committed,
    Acted,
}

/// The process that is killed: branches and steps, each told of as far as it is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_to_be_killed() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let resource = at(path.as_ref());
    let say = |word: &str, name: &BranchName| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word} {name}").and_then(|()| out.flush()).expect("somebody listens");
    };
    let worker = async |branch: u16| {
        let bank = Bank::open();
        for round in 0_u32.. {
            let name = BranchName { branch: BranchId(branch), ..fresh_name() };
            say("asked", &name);
            if round % 3 == 0 {
                let acted = resource.call(call(&name, Verb::Act, bank.add(1))).await;
                assert!(matches!(acted, Answer::Done(_)), "{acted:?}");
                say("acted", &name);
                continue;
            }
            let vote = prepare(&resource, &name, bank.add(1)).await;
            assert!(matches!(vote, Answer::Yes(_)), "{vote:?}");
            say("yes", &name);
            assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
            say("committed", &name);
        }
    };
    let [a, b, c, d] = std::array::from_fn::<u16, { WORKERS as usize }, _>(|it| it as u16);
    tokio::join!(worker(a), worker(b), worker(c), worker(d));
}

#[tokio::test]
async fn a_process_that_is_killed_keeps_every_promise_in_its_file() {
    let bank = Bank::open();
    let mut sum = 1_000;
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("it runs"))
            .args(["--exact", "kills::a_process_to_be_killed", "--nocapture"])
            .env(FILE, bank.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut heard = HashMap::<BranchName, Heard>::new();
        // Somewhere else each time: after so many lines, and a little.
        for _ in 0..20 + round {
            let line = lines.next().expect("it goes on").expect("a line");
            note(&mut heard, &line);
        }
        std::thread::sleep(Duration::from_micros(round * 97 % 1_000));
        child.kill().expect("it is there");
        child.wait().expect("it has ended");
        lines.map_while(Result::ok).for_each(|line| note(&mut heard, &line));
        sum += settle(&bank, &heard).await;
        assert_eq!(bank.counter(), sum, "round {round}");
    }
    let left = "SELECT count(*) FROM unanimous_lock";
    assert_eq!(bank.number(left), 0, "nothing is held any more");
    assert_eq!(bank.prepared(), Vec::<String>::new());
}

fn note(heard: &mut HashMap<BranchName, Heard>, line: &str) {
    let Some((word, name)) = line.split_once(' ') else { return };
    let Ok(name) = name.parse() else { return };
    let now = match word {
        "asked" => Heard::Asked,
        "yes" => Heard::Yes,
        "committed" => Heard::Committed,
        _ => Heard::Acted,
    };
    heard.insert(name, now);
}

/// Ends everything as a coordinator does after a restart, and returns how much was added.
async fn settle(bank: &Bank, heard: &HashMap<BranchName, Heard>) -> i64 {
    let resource = bank.resource();
    let held = resource.in_doubt(Duration::from_secs(10)).await.expect("a list");
    let held: Vec<_> = held.expect("it can be asked").into_iter().map(|it| it.name).collect();
    let mut added = 0;
    for (name, heard) in heard {
        let verb = match heard {
            Heard::Yes | Heard::Committed => Verb::Commit,
            Heard::Asked => Verb::Rollback,
            Heard::Acted => Verb::Act,
        };
        let is_held = held.contains(&name.to_string());
        assert!(!is_held || *heard < Heard::Committed, "{name} was {heard:?}");
        let answer = resource.call(call(name, verb, bank.add(1))).await;
        assert!(matches!(answer, Answer::Done(_)), "{verb:?} after {heard:?}: {answer:?}");
        added += i64::from(verb != Verb::Rollback);
        if *heard == Heard::Asked {
            // It may have been a step that was done.
            let act = bank
                .number(&format!("SELECT count(*) FROM unanimous_barrier WHERE branch = '{name}'"));
            added += act;
        }
    }
    added
}
