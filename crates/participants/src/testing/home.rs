//! Where a private server lives: its folder, and the processes that are started in it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::PATIENCE;

/// Nobody's number on every system: databases refuse to run as root.
const NOBODY: u32 = 65_534;

/// The folder of one server.
pub(super) struct Home {
    folder: PathBuf,
    /// Goes with the server, unless the folder is somebody else's.
    own: Option<TempDir>,
}

/// Who a program of a server runs as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RunAs {
    /// Whoever we are.
    Us,
    /// The same, but nobody if that is root.
    NeverRoot,
}

impl Home {
    /// A temporary folder, which is removed with the server.
    pub(super) fn temporary(prefix: &str) -> Self {
        let own = tempfile::Builder::new().prefix(prefix).tempdir().expect("a folder");
        Self { folder: own.path().to_owned(), own: Some(own) }
    }

    /// A folder that belongs to the caller, who sees to the end of the server in it, too: Ctrl-C at a
    /// terminal does not reach its processes.
    pub(super) fn at(folder: &Path) -> Result<Self, String> {
        let wrong = |error: io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(wrong)?;
        Ok(Self { folder: folder.to_owned(), own: None })
    }

    /// Lets programs in that do not run as root.
    pub(super) fn open_to_nobody(&self) -> Result<(), String> {
        let wrong = |error: io::Error| format!("{}: {error}", self.folder.display());
        if is_root() {
            chown(&self.folder, Some(NOBODY), Some(NOBODY)).map_err(wrong)?;
        }
        fs::set_permissions(&self.folder, Permissions::from_mode(0o755)).map_err(wrong)
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// A program that runs in the folder.
    pub(super) fn command(&self, program: &Path, run_as: RunAs) -> Command {
        let mut command = match run_as == RunAs::NeverRoot && is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        if self.own.is_none() {
            command.process_group(0);
        }
        command.env("TMPDIR", &self.folder).env("HOME", &self.folder);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// The file that everything said there goes to.
    pub(super) fn log(&self) -> File {
        let path = self.folder.join("log");
        OpenOptions::new().create(true).append(true).open(path).expect("the folder is ours")
    }

    /// Runs a program to its end, which has to be a good one.
    pub(super) fn run(&self, command: &mut Command) -> Result<(), String> {
        match command.stdout(self.log()).stderr(self.log()).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("its folder is not made, {status}: {}", self.said())),
            Err(error) => Err(format!("its folder is not made: {error}")),
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts a server, if it is not running, and waits until it answers.
    pub(super) fn up(
        &self,
        child: &mut Option<Child>,
        command: impl Fn() -> Command,
        answers: impl Fn() -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !answers() {
            if Instant::now() > deadline {
                return Err(format!("it does not answer: {}", self.said()));
            }
            // It may refuse to start while a process of its former life is still there.
            let gone = child.as_mut().is_none_or(|it| it.try_wait().expect("ours").is_some());
            if gone {
                let spawned = command().stdout(self.log()).stderr(self.log()).spawn();
                *child = Some(spawned.map_err(|error| format!("it cannot be started: {error}"))?);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Kills a server as a power failure would.
pub(super) fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // It may have ended by itself.
        drop(child.kill());
        drop(child.wait());
    }
}

/// Processor time that a server has used so far, from `/proc`: its main process and those that this has
/// started, whether or not they live.
pub(super) fn cpu(child: &Option<Child>) -> Duration {
    let Some(main) = child.as_ref().map(Child::id) else { return Duration::ZERO };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ticks = processes.filter_map(|process| {
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        // The name of the program, in brackets, may hold spaces.
        let (name, rest) = stat.rsplit_once(')')?;
        let fields: Vec<u64> = rest.split(' ').map(|it| it.parse().unwrap_or(0)).collect();
        let own = name.split(' ').next()?.parse() == Ok(main);
        let of_those_that_ended = if own { fields.get(14)? + fields.get(15)? } else { 0 };
        let ours = own || fields.get(2) == Some(&u64::from(main));
        ours.then_some(fields.get(12)? + fields.get(13)? + of_those_that_ended)
    });
    // Programs see 100 ticks a second on every Linux.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// What a server's own client says.
pub(super) fn said_by(client: &mut Command) -> Result<String, String> {
    let output = client.output().expect("a server comes with its client");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// Where a program is; a server is not always in the path.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|it| it.exists())
}

/// Copies a file so that a server can read it, and nobody else: some take no key otherwise.
#[cfg(feature = "testing")]
pub(super) fn hand_over(from: &Path, to: &Path) {
    fs::copy(from, to).expect("the folder is ours");
    fs::set_permissions(to, Permissions::from_mode(0o600)).expect("the file is ours");
    if is_root() {
        chown(to, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
}

/// Whether what this process makes belongs to root.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}
