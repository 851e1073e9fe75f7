//! A PostgreSQL server of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

#[cfg(feature = "testing")]
use super::Certified;
#[cfg(feature = "testing")]
use super::home::hand_over;
use super::home::{Home, RunAs, cpu, kill, said_by};
use super::{free_port, skip};

/// A server that is killed when this goes.
pub struct PrivatePostgres {
    home: Home,
    programs: PathBuf,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl PrivatePostgres {
    /// Whether one can be started on this machine.
    pub fn is_installed() -> bool {
        programs().is_some()
    }

    /// Starts a server with these settings, each as `name=value`, besides room for 200 prepared
    /// transactions. `None` if PostgreSQL is not installed, after [`skip`].
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start(settings: &[&str]) -> Option<Self> {
        if !Self::is_installed() {
            skip("PostgreSQL");
            return None;
        }
        Some(Self::start_at(Home::temporary("una-pg-"), free_port(), settings).expect("it starts"))
    }

    /// The same in a folder of the caller's, who also names the port and removes the folder.
    ///
    /// # Errors
    ///
    /// Why it does not start.
    pub fn start_in(folder: &Path, port: u16, settings: &[&str]) -> Result<Self, String> {
        Self::start_at(Home::at(folder)?, port, settings)
    }

    fn start_at(home: Home, port: u16, settings: &[&str]) -> Result<Self, String> {
        let programs = programs().ok_or("it is not installed")?;
        home.open_to_nobody()?;
        let options = ["max_prepared_transactions=200", "max_connections=200"];
        let options = options.iter().chain(settings).map(|it| (*it).to_owned()).collect();
        let mut server = Self { home, programs, port, options, child: None };
        let mut initdb = server.command("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        initdb.args(["--no-instructions", "--no-sync", "-D"]).arg(server.data());
        server.home.run(&mut initdb)?;
        server.try_up()?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        self.home.command(&self.programs.join(program), RunAs::NeverRoot)
    }

    /// Starts it, if it is not running, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it does not within [`PATIENCE`](super::PATIENCE).
    pub fn up(&mut self) {
        self.try_up().expect("PostgreSQL starts");
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// What it says if it does not.
    pub fn try_up(&mut self) -> Result<(), String> {
        let mut child = self.child.take();
        let up = self.home.up(&mut child, || self.server(), || self.answers());
        self.child = child;
        up
    }

    fn server(&self) -> Command {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c"]);
        command.arg(format!("unix_socket_directories={}", self.home.path().display()));
        for option in &self.options {
            command.args(["-c", option]);
        }
        command
    }

    fn answers(&self) -> bool {
        let mut ready = self.command("pg_isready");
        ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        ready.status().is_ok_and(|status| status.success())
    }

    /// Processor time that it has used so far: its main process and those that this has started.
    pub fn cpu(&self) -> Duration {
        cpu(&self.child)
    }

    /// Kills it as a power failure would.
    pub fn kill(&mut self) {
        kill(&mut self.child);
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

    /// Lets everybody in from other machines of a network, `address/bits`, at which it has to listen.
    ///
    /// # Panics
    ///
    /// If the server does not take it.
    pub fn let_in_from(&mut self, network: &str) {
        let rules = ["127.0.0.1/32", network].map(|from| format!("host all all {from} trust\n"));
        self.let_in_by(&rules.concat());
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
            hand_over(from, &self.data().join(name));
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
        said_by(psql.args(["-c", statements]))
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
