//! A PostgreSQL server of a test's own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

#[cfg(feature = "testing")]
use super::Certified;
use super::{NOBODY, PATIENCE, free_port, is_root, skip};

/// A server that is killed when this goes.
pub struct PrivatePostgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl PrivatePostgres {
    /// Starts a server with these settings, each as `name=value`, besides room for 200 prepared
    /// transactions. `None` if PostgreSQL is not installed, after [`skip`].
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start(settings: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            skip("PostgreSQL");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("una-pg-").tempdir().expect("a folder");
        open_to_nobody(folder.path()).expect("the folder is ours");
        let options = ["max_prepared_transactions=200", "max_connections=200"];
        let options = options.iter().chain(settings).map(|it| (*it).to_owned()).collect();
        let mut server = Self { folder, programs, port: free_port(), options, child: None };
        let data = server.data();
        let mut initdb = server.command("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        initdb.args(["--no-instructions", "--no-sync", "-D"]).arg(data);
        let made = initdb.stdout(Stdio::null()).status().expect("initdb runs");
        assert!(made.success(), "initdb ended with {made}");
        server.up();
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let path = self.programs.join(program);
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(path);
                command
            }
            false => Command::new(path),
        };
        command.env("TMPDIR", self.folder.path()).env("HOME", self.folder.path());
        command.current_dir(self.folder.path());
        command
    }

    fn log(&self) -> File {
        let path = self.folder.path().join("log");
        OpenOptions::new().create(true).append(true).open(path).expect("the folder is ours")
    }

    /// Starts it, if it is not running, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it does not within [`PATIENCE`].
    pub fn up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", self.said());
            // It refuses to start while a process of its former life is still there.
            let gone = self.child.as_mut().is_none_or(|it| it.try_wait().expect("ours").is_some());
            if gone {
                self.child = Some(self.spawn());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn spawn(&self) -> Child {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c"]);
        command.arg(format!("unix_socket_directories={}", self.folder.path().display()));
        for option in &self.options {
            command.args(["-c", option]);
        }
        command.stdin(Stdio::null()).stdout(self.log()).stderr(self.log());
        command.spawn().expect("postgres runs")
    }

    fn answers(&self) -> bool {
        let mut ready = self.command("pg_isready");
        ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        ready.status().is_ok_and(|status| status.success())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Processor time that it has used so far, from `/proc`: its main process and those that live.
    pub fn cpu(&self) -> Duration {
        let Some(main) = self.child.as_ref().map(Child::id) else { return Duration::ZERO };
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

    /// Kills it as a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database on it, as a resource is configured.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Lets a user in only by a method of `pg_hba.conf`, such as `scram-sha-256`.
    ///
    /// # Panics
    ///
    /// If the server does not take it.
    pub fn require(&mut self, method: &str, user: &str) {
        let rules = format!(
            "host all {user} 127.0.0.1/32 {method}\nhost all postgres 127.0.0.1/32 trust\n"
        );
        self.let_in_by(&rules);
    }

    /// Lets it speak TLS with a certificate, and knows clients by those of `clients`, a file in PEM.
    ///
    /// # Panics
    ///
    /// If the server does not take them.
    #[cfg(feature = "testing")]
    pub fn encrypt(&mut self, server: &Certified, clients: &Path) {
        let files = [
            (&*server.certificate, "server.crt"),
            (&*server.key, "server.key"),
            (clients, "clients.crt"),
        ];
        for (from, name) in files {
            super::hand_over(from, &self.data().join(name));
        }
        self.sql("postgres", "ALTER SYSTEM SET ssl = on");
        self.sql("postgres", "ALTER SYSTEM SET ssl_ca_file = 'clients.crt'");
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// Lets a user in only over TLS, and only by a method of `pg_hba.conf` with its options, such as
    /// `scram-sha-256 clientcert=verify-full`.
    ///
    /// # Panics
    ///
    /// If the server does not take it.
    pub fn require_tls(&mut self, method: &str, user: &str) {
        let rules = format!(
            "hostssl all {user} 127.0.0.1/32 {method}\nhost all postgres 127.0.0.1/32 trust\n"
        );
        self.let_in_by(&rules);
    }

    fn let_in_by(&self, rules: &str) {
        fs::write(self.data().join("pg_hba.conf"), rules).expect("the folder is ours");
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// Runs statements with the server's own client, as its superuser, and returns what they say.
    ///
    /// # Panics
    ///
    /// If one of them fails.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql(database, statements).expect("the statements are good")
    }

    /// The same for statements that may fail.
    ///
    /// # Errors
    ///
    /// What the client says.
    ///
    /// # Panics
    ///
    /// If the client cannot be run.
    pub fn try_sql(&self, database: &str, statements: &str) -> Result<String, String> {
        let mut psql = self.command("psql");
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database]);
        let output = psql.args(["-c", statements]).output().expect("psql runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.kill();
    }
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

fn open_to_nobody(folder: &Path) -> io::Result<()> {
    if is_root() {
        chown(folder, Some(NOBODY), Some(NOBODY))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}
