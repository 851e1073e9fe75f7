//! A MariaDB server of a test's own.
//!
//! Where `UNANIMOUS_MYSQLD` names a `mysqld` of MySQL, that runs in its place, so that every test of the
//! one is a test of the other.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

#[cfg(feature = "testing")]
use super::Certified;
#[cfg(feature = "testing")]
use super::home::hand_over;
use super::home::{Home, RunAs, cpu, kill, program, said_by};
use super::{free_port, skip};

/// Names a `mysqld` to be run in place of MariaDB.
const MYSQLD: &str = "UNANIMOUS_MYSQLD";

const INSTALL: [&str; 2] = ["--auth-root-authentication-method=normal", "--skip-test-db"];

/// Without it MySQL lets its superuser in by the socket only.
const ROOT: &str = "CREATE USER root@'127.0.0.1'; \
                    GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n";

/// A server that is killed when this goes.
pub struct PrivateMariaDb {
    home: Home,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl PrivateMariaDb {
    /// Whether one can be started on this machine.
    pub fn is_installed() -> bool {
        mysqld().is_some()
            || program("mariadbd").is_some() && program("mariadb-install-db").is_some()
    }

    /// Whether it is MySQL that is run.
    pub fn is_mysql() -> bool {
        mysqld().is_some()
    }

    /// Starts a server with these options, each as `--name=value`, and an empty database `bank`.
    /// `None` if MariaDB is not installed, after [`skip`].
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start(options: &[&str]) -> Option<Self> {
        if !Self::is_installed() {
            skip("MariaDB");
            return None;
        }
        let server = Self::start_at(Home::temporary("una-my-"), free_port(), options);
        Some(server.expect("it starts"))
    }

    /// The same in a folder of the caller's, who also names the port and removes the folder.
    ///
    /// # Errors
    ///
    /// Why it does not start.
    pub fn start_in(folder: &Path, port: u16, options: &[&str]) -> Result<Self, String> {
        Self::start_at(Home::at(folder)?, port, options)
    }

    fn start_at(home: Home, port: u16, options: &[&str]) -> Result<Self, String> {
        home.open_to_nobody()?;
        let options = options.iter().map(|it| (*it).to_owned()).collect();
        let mut server = Self { home, port, options, child: None };
        let mut install = server.program("mariadb-install-db");
        install.arg("--no-defaults").arg(server.argument("datadir", "data"));
        install.arg(server.argument("tmpdir", ""));
        if Self::is_mysql() {
            let root = server.home.path().join("root.sql");
            std::fs::write(root, ROOT).map_err(|error| format!("root.sql: {error}"))?;
            install.arg("--initialize-insecure").arg(server.argument("init-file", "root.sql"));
        } else {
            install.args(INSTALL);
        }
        server.home.run(&mut install)?;
        server.try_up()?;
        server.try_sql("", "CREATE DATABASE bank")?;
        Ok(server)
    }

    fn argument(&self, name: &str, file: &str) -> String {
        format!("--{name}={}", self.home.path().join(file).display())
    }

    /// A program of MariaDB's server; MySQL has one for everything.
    fn program(&self, name: &str) -> Command {
        match mysqld() {
            Some(mysqld) => self.home.command(&mysqld, RunAs::NeverRoot),
            None => self.command(name),
        }
    }

    fn command(&self, name: &str) -> Command {
        let program = program(name).unwrap_or_else(|| name.into());
        self.home.command(&program, RunAs::NeverRoot)
    }

    /// Starts it, if it is not running, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it does not within [`PATIENCE`](super::PATIENCE).
    pub fn up(&mut self) {
        self.try_up().expect("MariaDB starts");
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// What it says if it does not.
    pub fn try_up(&mut self) -> Result<(), String> {
        let mut child = self.child.take();
        let answers = || self.try_sql("", "SELECT 1").is_ok();
        let up = self.home.up(&mut child, || self.server(), answers);
        self.child = child;
        up
    }

    fn server(&self) -> Command {
        let mut command = self.program("mariadbd");
        command.arg("--no-defaults").arg(self.argument("datadir", "data"));
        command.arg(self.argument("tmpdir", "")).arg(self.argument("socket", "socket"));
        command.arg(self.argument("pid-file", "pid")).arg(format!("--port={}", self.port));
        command.args(["--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.args(["--max-connections=300", "--innodb-buffer-pool-size=64M"]);
        // A server that is killed loses commits without it, see docs/resources-mysql.md; older ones lack it.
        command.arg("--loose-innodb-log-file-mmap=OFF");
        if Self::is_mysql() {
            command.arg("--mysqlx=OFF");
        }
        command.args(&self.options);
        command
    }

    /// Processor time that it has used so far.
    pub fn cpu(&self) -> Duration {
        cpu(&self.child)
    }

    /// Kills it as a power failure would.
    pub fn kill(&mut self) {
        kill(&mut self.child);
    }

    /// Lets it speak TLS with a certificate, and knows clients by those of `clients`, a file in PEM.
    ///
    /// # Panics
    ///
    /// If the server does not take them.
    #[cfg(feature = "testing")]
    pub fn encrypt(&mut self, server: &Certified, clients: &Path) {
        self.kill();
        let files =
            [(&*server.certificate, "ssl-cert"), (&*server.key, "ssl-key"), (clients, "ssl-ca")];
        for (from, name) in files {
            hand_over(from, &self.home.path().join(name));
            self.options.push(self.argument(name, name));
        }
        self.up();
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database on it, as a resource is configured.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("mysql://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs statements with the server's own client, as its superuser, and returns what they say:
    /// a line for each row, with tabs between its fields.
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
        let mut client = self.command("mariadb");
        client.args(["--no-defaults", "-h", "127.0.0.1", "-P", &self.port.to_string()]);
        client.args(["-u", "root", "-N", "-B", "--default-character-set=utf8mb4"]);
        said_by(client.args([&format!("--database={database}"), "-e", statements]))
    }
}

/// The program of MySQL that is to be run in place of MariaDB's.
fn mysqld() -> Option<PathBuf> {
    std::env::var_os(MYSQLD).map(PathBuf::from)
}

impl Drop for PrivateMariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}
