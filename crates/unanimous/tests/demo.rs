//! The demo as its readers run it: it succeeds, and leaves nothing behind however it ends.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the processes of a demo may take to be there, or gone.
const PATIENCE: Duration = Duration::from_secs(60);

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimous"));
    command.arg("demo").args(arguments).env("TMPDIR", folder).stdin(Stdio::null());
    command
}

/// How many processes have the folder in their command lines.
fn processes_in(folder: &Path) -> usize {
    let folder = folder.display().to_string();
    let processes = fs::read_dir("/proc").expect("a Linux machine").flatten();
    let command_lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    command_lines.filter(|line| String::from_utf8_lossy(line).contains(&folder)).count()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("it is there").next().is_none()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Build with `--features broken-gate` to see that the demo notices a coordinator that is wrong.
#[cfg(feature = "broken-gate")]
#[test]
fn a_coordinator_that_skips_the_gate_fails_the_demo() {
    // Whether a kill meets a decision that is not written yet is chance, more so on a busy machine.
    let notices = |seed: u32| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let seed = seed.to_string();
        let output = demo(folder.path(), &["--transfers", "5000", "--seed", &seed, "--json"])
            .output()
            .expect("it starts");
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{report}");
        output.status.code() == Some(1)
    };
    assert!((1..=5).any(notices), "five demos of a coordinator that skips the gate, all in order");
}

#[cfg(not(feature = "broken-gate"))]
#[test]
fn the_books_balance_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = demo(folder.path(), &["--transfers", "200", "--seed", "1", "--json"])
        .output()
        .expect("it starts");
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert!(output.status.success(), "{report:#}");
    let run = &report["unanimously"];
    let (committed, refused) = (&run["committed"], &run["refused"]["insufficient_balance"]);
    assert_eq!(committed.as_u64().zip(refused.as_u64()).map(|(a, b)| a + b), Some(200), "{run:#}");
    for (role, kills) in run["kills"].as_object().expect("by process") {
        assert!(kills.as_u64() >= Some(3), "{role} was killed {kills} times");
    }
    let totals = &run["audit"]["totals"];
    assert_eq!((&totals["wallet"], &totals["ledger"]), (&totals["ledger"], &totals["audit"]));
    assert!(totals["wallet"].as_u64() > Some(0), "nothing was transferred");
    assert!(is_empty(folder.path()), "the demo left its folder");
    assert_eq!(processes_in(folder.path()), 0, "the demo left processes");
}

#[cfg(not(feature = "broken-gate"))]
#[test]
fn a_demo_that_is_to_be_kept_keeps_its_databases() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = demo(folder.path(), &["--transfers", "20", "--seed", "2", "--keep"])
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8(output.stdout).expect("output is UTF-8");
    let (_, kept) = text.trim_end().rsplit_once("are in ").expect("it says where");
    assert!(Path::new(kept).join("unanimous/wallet.sqlite").is_file(), "{kept}");
    assert_eq!(processes_in(folder.path()), 0, "the demo left processes");
}

/// A demo that goes on for minutes unless it is stopped, with all its processes running.
fn long_demo(folder: &Path) -> Child {
    let arguments = ["--transfers", "1000000", "--seed", "3"];
    let quiet = demo(folder, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = quiet.expect("it starts");
    wait_until("three services, a coordinator and a janitor run", || processes_in(folder) >= 5);
    child
}

#[test]
fn a_demo_that_is_interrupted_cleans_up_and_exits_with_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = long_demo(folder.path());
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.expect("kill is everywhere").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    assert!(is_empty(folder.path()), "the demo left its folder");
    wait_until("no process is left", || processes_in(folder.path()) == 0);
}

#[test]
fn a_demo_that_is_killed_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = long_demo(folder.path());
    child.kill().expect("it runs");
    child.wait().expect("it can be waited for");
    wait_until("no process is left", || processes_in(folder.path()) == 0);
    assert!(is_empty(folder.path()), "the demo left its folder");
}

#[cfg(not(feature = "broken-gate"))]
mod databases {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;
    use unanimous_participants::testing::{PrivateMariaDb, PrivatePostgres, PrivateRedis, skip};

    use super::*;

    /// Whether there is a demo with databases on this machine.
    fn databases_are_installed() -> bool {
        let installed = PrivatePostgres::is_installed()
            && PrivateMariaDb::is_installed()
            && PrivateRedis::is_installed();
        if !installed {
            skip("PostgreSQL, MariaDB or Redis");
        }
        installed
    }

    /// A folder that databases reach, which do not run as root.
    fn open_folder() -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
        folder
    }

    /// How many processes work in the folder.
    fn processes_at(folder: &Path) -> usize {
        let processes = fs::read_dir("/proc").expect("a Linux machine").flatten();
        let places = processes.filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok());
        places.filter(|place| place.starts_with(folder)).count()
    }

    #[test]
    fn the_books_of_three_kinds_of_databases_balance_and_no_server_is_left_behind() {
        if !databases_are_installed() {
            return;
        }
        let folder = open_folder();
        let arguments =
            ["--resources", "postgres,mariadb,redis", "--transfers", "60", "--seed", "4"];
        let output = demo(folder.path(), &arguments).output().expect("it starts");
        let text = String::from_utf8(output.stdout).expect("output is UTF-8");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        for line in [
            "12 times: coordinator 3, wallet (PostgreSQL) 3, ledger (MariaDB) 3, audit (Redis) 3;",
            "0 transfers broken, 0 told other than booked",
            "0 branches left prepared, 0 transactions unfinished",
            "WITHOUT  each party commits at once, same kills",
            "THE BOOKS BALANCE to the rupee.",
        ] {
            assert!(text.contains(line), "not there: {line}\n{text}");
        }
        assert!(!text.contains("wallet ₹0 "), "nothing was transferred: {text}");
        assert!(is_empty(folder.path()), "the demo left its folder");
        wait_until("no server is left", || processes_at(folder.path()) == 0);
    }

    /// A demo with databases that goes on for minutes unless it is stopped, with all servers running.
    fn long_demo_with_databases(folder: &Path) -> Child {
        let arguments = ["--resources", "redis,postgres,mariadb", "--transfers", "1000000"];
        let quiet = demo(folder, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = quiet.expect("it starts");
        wait_until("a coordinator and a janitor run", || {
            processes_in(folder) >= 2 && {
                let journal = fs::read_dir(folder).expect("it is there").flatten().next();
                journal.is_some_and(|demo| demo.path().join("unanimous/journal").exists())
            }
        });
        assert!(processes_at(folder) >= 3, "three servers run");
        child
    }

    #[test]
    fn a_demo_with_databases_cleans_up_whether_it_is_interrupted_or_killed() {
        if !databases_are_installed() {
            return;
        }
        for signal in ["-INT", "-KILL"] {
            let folder = open_folder();
            let mut child = long_demo_with_databases(folder.path());
            let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
            assert!(sent.expect("kill is everywhere").success());
            let code = child.wait().expect("it ends").code();
            assert_eq!(code, (signal == "-INT").then_some(1), "{signal}");
            wait_until("no process is left", || {
                processes_in(folder.path()) + processes_at(folder.path()) == 0
            });
            wait_until("no folder is left", || is_empty(folder.path()));
        }
    }

    #[test]
    fn a_database_that_is_not_installed_is_named_with_its_package_before_anything_starts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = demo(folder.path(), &["--resources", "redis"]);
        let output = command.env("PATH", "/nowhere").output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("Redis is not installed"), "{said}");
        assert!(said.contains("apt-get install redis-server"), "{said}");
        assert!(is_empty(folder.path()), "something was started");
    }
}
