//! A MariaDB server of a test's own.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
#[cfg(feature = "testing")]
use std::path::Path;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

#[cfg(feature = "testing")]
use super::Certified;
use super::{NOBODY, PATIENCE, free_port, is_root, skip};

/// A server that is killed when this goes.
pub struct PrivateMariaDb {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl PrivateMariaDb {
    /// Starts a server with these options, each as `--name=value`, and an empty database `bank`.
    /// `None` if MariaDB is not installed, after [`skip`].
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start(options: &[&str]) -> Option<Self> {
        if program("mariadbd").is_none() || program("mariadb-install-db").is_none() {
            skip("MariaDB");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("una-my-").tempdir().expect("a folder");
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("the folder is ours");
        }
        let open = Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("the folder is ours");
        let options = options.iter().map(|it| (*it).to_owned()).collect();
        let mut server = Self { folder, port: free_port(), options, child: None };
        let mut install = server.command("mariadb-install-db");
        install.arg("--no-defaults").arg(server.argument("datadir", "data"));
        install.arg(server.argument("tmpdir", ""));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        let made = install.stdout(server.log()).stderr(server.log()).status().expect("it runs");
        assert!(made.success(), "mariadb-install-db ended with {made}: {}", server.said());
        server.up();
        server.sql("", "CREATE DATABASE bank");
        Some(server)
    }

    fn argument(&self, name: &str, file: &str) -> String {
        format!("--{name}={}", self.folder.path().join(file).display())
    }

    fn command(&self, name: &str) -> Command {
        let path = program(name).unwrap_or_else(|| PathBuf::from(name));
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
        while self.try_sql("", "SELECT 1").is_err() {
            assert!(Instant::now() < deadline, "MariaDB does not start: {}", self.said());
            let gone = self.child.as_mut().is_none_or(|it| it.try_wait().expect("ours").is_some());
            if gone {
                self.child = Some(self.spawn());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn spawn(&self) -> Child {
        let mut command = self.command("mariadbd");
        command.arg("--no-defaults").arg(self.argument("datadir", "data"));
        command.arg(self.argument("tmpdir", "")).arg(self.argument("socket", "socket"));
        command.arg(self.argument("pid-file", "pid")).arg(format!("--port={}", self.port));
        command.args(["--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.args(["--max-connections=300", "--innodb-buffer-pool-size=64M"]);
        command.args(&self.options);
        command.stdin(Stdio::null()).stdout(self.log()).stderr(self.log());
        command.spawn().expect("mariadbd runs")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Kills it as a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
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
            super::hand_over(from, &self.folder.path().join(name));
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
        client.args([&format!("--database={database}"), "-e", statements]);
        let output = client.output().expect("the client runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

impl Drop for PrivateMariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where a program is; a server is not always in the path.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|it| it.exists())
}
