//! Faults at exact places, by strace: the binary stays as it is.
//!
//! strace counts calls by name and by thread, and only those to the file it is told to look at. So
//! the n-th write of a segment is always the same one: only one thread writes there. A call at
//! which the process is killed is not carried out.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::place::LOOK_EVERY;

/// What happens to a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// The process is killed in its stead.
    Kill,
    /// It and those after it come so many microseconds late.
    Late(u64),
    /// It fails with this error.
    Error(&'static str),
}

/// A call that never comes back: it takes longer than any test.
pub(crate) const STUCK: Fault = Fault::Late(3_600_000_000);

/// How often in a row a thread must be found at a stop of the tracer to count as stuck. It stops
/// there for some microseconds at every call.
const STUCK_LOOKS: u32 = 30;

/// Writes and syncs of a segment.
pub(crate) const DISK: &[&str] = &["pwrite64", "fdatasync"];

/// Whatever is sent to somebody.
pub(crate) const NETWORK: &[&str] = &["sendto", "writev", "sendmsg"];

/// Everything that changes a folder or a file. Not every processor has those with a question mark.
pub(crate) const FOLDER: &[&str] = &[
    "flock",
    "pwrite64",
    "ftruncate",
    "fsync",
    "fdatasync",
    "?mkdir",
    "?mkdirat",
    "?rename",
    "?renameat",
    "?renameat2",
    "?unlink",
    "?unlinkat",
];

/// One fault, at one place.
#[derive(Debug)]
pub(crate) struct Tracer {
    /// Where to write down the writes and syncs, one file for each thread.
    pub(crate) log: PathBuf,
    pub(crate) fault: Fault,
    /// Name of the call.
    pub(crate) call: &'static str,
    /// Only calls to this file; its writes and syncs are written down too.
    pub(crate) only: Option<PathBuf>,
    /// The how manieth call of a thread, counted from one; all from there on unless it is a kill.
    pub(crate) when: u32,
}

impl Tracer {
    /// Whether faults can be made here.
    pub(crate) fn is_there() -> bool {
        let strace = std::process::Command::new("strace").args(["-qq", "true"]).output();
        strace.is_ok_and(|ran| ran.status.success())
    }

    /// What starts `binary` under the tracer, as a child of ours like any other.
    pub(crate) fn command(&self, binary: &str) -> Command {
        self.forget();
        let Self { call, when, .. } = self;
        let fault = match self.fault {
            Fault::Kill => format!("inject={call}:signal=KILL:when={when}"),
            Fault::Late(us) => format!("inject={call}:delay_enter={us}:when={when}+"),
            Fault::Error(error) => format!("inject={call}:error={error}:when={when}+"),
        };
        let trace = format!("trace={call},{}", DISK.join(","));
        let mut command = Command::new("strace");
        command.args(["-D", "-ff", "-qq", "-s", "0", "-e", "signal=none", "-o"]).arg(&self.log);
        if let Some(only) = &self.only {
            command.arg("-P").arg(only);
        }
        command.args(["-e", &trace, "-e", &fault, binary]);
        command
    }

    /// Takes back what the last life wrote to the file and did not sync: what a power cut may do,
    /// and a kill alone does not. Returns how many writes that were.
    pub(crate) fn lose_unsynced(&self) -> usize {
        let Some(only) = self.only.as_deref().filter(|path| path.exists()) else { return 0 };
        let lost: Vec<Write> = self.logs().iter().flat_map(|log| unsynced(log)).collect();
        let file = OpenOptions::new().write(true).open(only).expect("the segment is there");
        for write in &lost {
            file.write_all_at(&vec![0; write.len], write.offset).expect("it can be written");
        }
        file.sync_all().expect("the disk of the test is sound");
        lost.len()
    }

    /// Whether a call has failed or was late.
    pub(crate) fn has_struck(&self) -> bool {
        self.logs().iter().any(|log| log.contains("(INJECTED)") || log.contains("(DELAYED)"))
    }

    fn logs(&self) -> Vec<String> {
        let files = self.log_files().into_iter();
        files.map(|path| std::fs::read_to_string(path).expect("strace writes text")).collect()
    }

    fn log_files(&self) -> Vec<PathBuf> {
        let name = self.log.file_name().expect("it is a file").to_string_lossy().into_owned();
        let folder = self.log.parent().unwrap_or(Path::new("."));
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let ours = entries.filter(|it| it.file_name().to_string_lossy().starts_with(&name));
        ours.map(|entry| entry.path()).collect()
    }

    fn forget(&self) {
        for path in self.log_files() {
            std::fs::remove_file(path).expect("it is ours");
        }
    }
}

/// Returns once a thread of the process is stuck, and has been for a while: whoever else was to be
/// told something by then was told.
pub(crate) async fn until_stuck(pid: u32) {
    let mut looks = 0;
    while looks < STUCK_LOOKS {
        let stopped = states(pid).iter().any(|state| state == "t");
        looks = if stopped { looks + 1 } else { 0 };
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Kills a process with a thread that is stuck, and its tracer, which would not let go of it.
pub(crate) fn kill_stuck(pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer =
        status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok());
    // In this order, or the call would be carried out in between.
    for pid in [Some(pid), tracer].into_iter().flatten() {
        let pid = Pid::from_raw(pid.cast_signed()).expect("it is traced");
        kill_process(pid, Signal::KILL).expect("it is ours");
    }
}

/// What the threads of a process are doing, as proc(5) has it: `t` is a stop of a tracer.
fn states(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let state = |stat: String| Some(stat.rsplit_once(") ")?.1.split(' ').next()?.to_owned());
    stats.filter_map(state).collect()
}

/// One write, as strace has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Write {
    offset: u64,
    len: usize,
}

/// The writes of one thread that no sync followed.
fn unsynced(log: &str) -> Vec<Write> {
    let mut open = Vec::new();
    for line in log.lines() {
        if let Some(write) = written(line) {
            open.push(write);
        } else if line.starts_with("fdatasync(") && line.ends_with("= 0") {
            open.clear();
        }
    }
    open
}

/// Reads a line such as `pwrite64(12, ""..., 480, 1328) = 480`.
fn written(line: &str) -> Option<Write> {
    let (arguments, _) = line.strip_prefix("pwrite64(")?.split_once(')')?;
    let mut numbers = arguments.rsplit(", ");
    let offset = numbers.next()?.parse().ok()?;
    let len = numbers.next()?.parse().ok()?;
    Some(Write { offset, len })
}

#[test]
fn writes_without_a_sync_behind_them_are_lost_in_a_power_cut() {
    let log = "\
pwrite64(12, \"\"..., 40, 672)            = 40
fdatasync(12)                           = 0
pwrite64(12, \"\"..., 80, 712)            = 80
fdatasync(12)                           = -1 EIO (Input/output error) (INJECTED)
pwrite64(12, \"\"..., 48, 792)            = ?
+++ killed by SIGKILL +++";
    let lost = [Write { offset: 712, len: 80 }, Write { offset: 792, len: 48 }];
    assert_eq!(unsynced(log), lost);
}
