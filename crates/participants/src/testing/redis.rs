//! A Redis server of a test's own.

use std::path::Path;
use std::process::{Child, Command};

use super::home::{Home, RunAs, kill, program, said_by};
use super::{free_port, skip};

/// A server that is killed when this goes.
pub struct PrivateRedis {
    home: Home,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl PrivateRedis {
    /// Whether one can be started on this machine.
    pub fn is_installed() -> bool {
        program("redis-server").is_some() && program("redis-cli").is_some()
    }

    /// Starts a server that syncs each command, with these options, each as `name value`, which come
    /// last and so win. `None` if Redis is not installed, after [`skip`].
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start(options: &[&str]) -> Option<Self> {
        if !Self::is_installed() {
            skip("Redis");
            return None;
        }
        let server = Self::start_at(Home::temporary("una-redis-"), free_port(), options);
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
        let options = options.iter().map(|it| (*it).to_owned()).collect();
        let mut server = Self { home, port, options, child: None };
        server.try_up()?;
        Ok(server)
    }

    fn command(&self, name: &str) -> Command {
        let program = program(name).unwrap_or_else(|| name.into());
        self.home.command(&program, RunAs::Us)
    }

    /// Starts it, if it is not running, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it does not within [`PATIENCE`](super::PATIENCE).
    pub fn up(&mut self) {
        self.try_up().expect("Redis starts");
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
        let mut command = self.command("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--dir"]);
        command.arg(self.home.path()).args(["--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        for option in &self.options {
            let (name, value) = option.split_once(' ').expect("a name and a value");
            command.arg(format!("--{name}")).args(value.split(' '));
        }
        command
    }

    /// An answer that is an error is one, too: of a server that wants a password, for example. One
    /// that is still loading is not there yet.
    fn answers(&self) -> bool {
        self.try_ask(&["PING"]).is_ok_and(|answer| !answer.contains("LOADING"))
    }

    /// Kills it as a power failure would.
    pub fn kill(&mut self) {
        kill(&mut self.child);
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
        let mut client = self.command("redis-cli");
        client.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(words);
        said_by(&mut client)
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.kill();
    }
}
