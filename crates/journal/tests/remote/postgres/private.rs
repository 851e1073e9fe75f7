//! A PostgreSQL server of a test's own, killed when its handle goes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use unanimous_journal::{Listener, PostgresJournal, PostgresOptions};

use crate::certificates::Certified;
use crate::patience::{PATIENCE, free_port, is_root};

/// Nobody's number on every system: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

/// A server.
pub(crate) struct Private {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Private {
    /// Starts one with these settings, each as `name=value`. `None` if PostgreSQL is not installed,
    /// after saying so; in CI that is a failure.
    pub(crate) fn start(settings: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "PostgreSQL is missing");
            eprintln!("SKIPPED: PostgreSQL is not there");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("una-journal-").tempdir().expect("a folder");
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let settings = settings.iter().map(|it| (*it).to_owned()).collect();
        let port = free_port();
        let mut server = Self { folder, programs, port, settings, child: None };
        let mut initdb = server.command("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        initdb.args(["--no-instructions", "--no-sync", "-D"]).arg(server.data());
        let done = initdb.stdout(server.log()).stderr(server.log()).status().expect("installed");
        assert!(done.success(), "{}", server.said());
        server.up();
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        command.env("TMPDIR", self.folder.path()).env("HOME", self.folder.path());
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn log(&self) -> File {
        let path = self.folder.path().join("log");
        OpenOptions::new().create(true).append(true).open(path).expect("the folder is ours")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Starts it, if it is not running, and waits until it answers.
    pub(crate) fn up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(Instant::now() < deadline, "it does not answer: {}", self.said());
            // It may refuse to start while a process of its former life is still there.
            if self.child.as_mut().is_none_or(|it| it.try_wait().expect("ours").is_some()) {
                self.child = Some(self.server().spawn().expect("installed"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn server(&self) -> Command {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c"]);
        command.arg(format!("unix_socket_directories={}", self.folder.path().display()));
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.stdout(self.log()).stderr(self.log());
        command
    }

    fn answers(&self) -> bool {
        let mut ready = self.command("pg_isready");
        ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        ready.status().is_ok_and(|status| status.success())
    }

    /// Kills it as a power failure would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Lets users in only by these lines of `pg_hba.conf`.
    pub(crate) fn let_in(&self, rules: &str) {
        fs::write(self.data().join("pg_hba.conf"), rules).expect("the folder is ours");
        self.sql("SELECT pg_reload_conf()");
    }

    /// Has it speak TLS, and lets a user in only so, by a method of `pg_hba.conf`.
    pub(crate) fn encrypt(&self, server: &Certified, ca: &str, user: &str, method: &str) {
        let files =
            [(&*server.certificate, "server.crt"), (&*server.key, "server.key"), (ca, "ca.crt")];
        for (from, name) in files {
            let to = self.data().join(name);
            fs::copy(from, &to).expect("the folder is ours");
            fs::set_permissions(&to, Permissions::from_mode(0o600)).expect("it is ours");
            if is_root() {
                chown(&to, Some(NOBODY), Some(NOBODY)).expect("root may");
            }
        }
        self.sql("ALTER SYSTEM SET ssl_ca_file = 'ca.crt'");
        self.sql("ALTER SYSTEM SET ssl = on");
        self.let_in(&format!(
            "hostssl all {user} 127.0.0.1/32 {method}\nhost all postgres 127.0.0.1/32 trust\n"
        ));
    }

    /// Runs statements with the server's own client, and returns what they say.
    pub(crate) fn sql(&self, statements: &str) -> String {
        let mut psql = self.command("psql");
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        let output =
            psql.args(["-c", statements]).output().expect("a server comes with its client");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "{statements}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Opens a journal.
pub(crate) fn open(url: &str, listener: Arc<dyn Listener>) -> PostgresJournal {
    PostgresJournal::open(url, PostgresOptions::default(), listener).expect("it opens")
}

/// Where the newest PostgreSQL of this machine is.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let found = versions.filter_map(|it| Some(it.ok()?.path().join("bin")));
    let version = |path: &PathBuf| {
        let version = path.parent()?.file_name()?.to_str()?;
        version.parse::<u32>().ok()
    };
    found.filter(|path| path.join("postgres").exists()).max_by_key(version)
}
