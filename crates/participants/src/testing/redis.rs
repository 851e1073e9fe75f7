//! A Redis server of a test's own.

use std::fs::{self, File, OpenOptions};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{PATIENCE, free_port, skip};

/// A server that is killed when this goes.
pub struct PrivateRedis {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl PrivateRedis {
    /// Starts a server that syncs each command, with these options, each as `name value`, which come
    /// last and so win. `None` if Redis is not installed, after [`skip`].
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start(options: &[&str]) -> Option<Self> {
        let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if found.is_err() {
            skip("Redis");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("una-redis-").tempdir().expect("a folder");
        let options = options.iter().map(|it| (*it).to_owned()).collect();
        let mut server = Self { folder, port: free_port(), options, child: None };
        server.up();
        Some(server)
    }

    /// Starts it, if it is not running, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it does not within [`PATIENCE`].
    pub fn up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(Instant::now() < deadline, "Redis does not start: {}", self.said());
            let gone = self.child.as_mut().is_none_or(|it| it.try_wait().expect("ours").is_some());
            if gone {
                self.child = Some(self.spawn());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--dir"]);
        command.arg(self.folder.path()).args(["--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        for option in &self.options {
            let (name, value) = option.split_once(' ').expect("a name and a value");
            command.arg(format!("--{name}")).args(value.split(' '));
        }
        command.stdin(Stdio::null()).stdout(self.log()).stderr(self.log());
        command.current_dir(self.folder.path()).spawn().expect("redis-server runs")
    }

    fn log(&self) -> File {
        let path = self.folder.path().join("log");
        OpenOptions::new().create(true).append(true).open(path).expect("the folder is ours")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// An answer that is an error is one, too: of a server that wants a password, for example. One
    /// that is still loading is not there yet.
    fn answers(&self) -> bool {
        self.try_ask(&["PING"]).is_ok_and(|answer| !answer.contains("LOADING"))
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

    /// The URL of it, as a resource is configured.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command with the server's own client, and returns what it says: a line for each part.
    /// An error is a line as well.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).expect("the server answers")
    }

    /// The same of a server that may not be there.
    ///
    /// # Errors
    ///
    /// What the client says.
    ///
    /// # Panics
    ///
    /// If the client cannot be run.
    pub fn try_ask(&self, words: &[&str]) -> Result<String, String> {
        let mut client = Command::new("redis-cli");
        client.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(words);
        let output = client.stdin(Stdio::null()).output().expect("redis-cli runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.kill();
    }
}
