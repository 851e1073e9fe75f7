//! A coordinator as its surroundings see it: a process, a folder, an address.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::LazyLock;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::http::Http;
use crate::network::{Machine, Network, Wire};
use crate::place::{PATIENCE, eventually, free_address};
use crate::trace::Tracer;

/// What a coordinator asks for that can be reached from outside.
pub(crate) const TOKEN: &str = "of-everybody-here";

/// Where one listens that is alone on its machine.
const PORT: u16 = 7_000;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_unanimous");

/// What the binary says it is.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let output = std::process::Command::new(BINARY).arg("--version").output();
    let output = output.expect("the binary can be started");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
});

/// What every life of one coordinator has in common.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) address: SocketAddr,
    pub(crate) data: PathBuf,
    /// The URL of the journal, if it is not in the folder.
    journal: Option<String>,
    /// What it is called among those that share the journal.
    node: Option<String>,
    /// Where the others reach it, if not where it listens.
    reached_at: Option<SocketAddr>,
    /// The namespace of the network that it runs in, if not that of everybody.
    namespace: Option<String>,
    /// The domain that some of the work is of.
    pub(crate) domain: Option<&'static str>,
    config: PathBuf,
    stderr: PathBuf,
}

impl Setup {
    /// A coordinator with its folder below `folder`, for these resources.
    pub(crate) fn new(folder: &Path, resources: &[(&str, SocketAddr)]) -> Self {
        let urls: Vec<_> =
            resources.iter().map(|(name, address)| (*name, format!("http://{address}"))).collect();
        Self::with_urls(folder, "", &urls)
    }

    /// The same for resources by URL, with `head` before them in the configuration.
    pub(crate) fn with_urls(folder: &Path, head: &str, resources: &[(&str, String)]) -> Self {
        let lines =
            resources.iter().map(|(name, url)| format!("[resources.{name}]\nurl = {url:?}\n"));
        let config = folder.join("unanimous.toml");
        std::fs::write(&config, format!("{head}{}", lines.collect::<String>()))
            .expect("the folder can be written to");
        let (data, stderr) = (folder.join("data"), folder.join("coordinator.log"));
        Self {
            address: free_address(),
            data,
            journal: None,
            node: None,
            reached_at: None,
            namespace: None,
            domain: None,
            config,
            stderr,
        }
    }

    /// The same with one resource more, calls to which are signed.
    pub(crate) fn with_signed(self, name: &str, address: SocketAddr) -> Self {
        let secret = self.config.with_file_name("secret");
        std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            .expect("the folder can be written to");
        let resource = format!(
            "[resources.{name}]\nurl = \"http://{address}\"\nsigning_secret_file = {secret:?}\n"
        );
        self.and_config("unanimous.toml", &resource)
    }

    /// The same with more in its configuration, in a file of this name.
    pub(crate) fn and_config(self, file: &str, text: &str) -> Self {
        let config = std::fs::read_to_string(&self.config).expect("it was written");
        let file = self.config.with_file_name(file);
        std::fs::write(&file, config + text).expect("the folder can be written to");
        Self { config: file, ..self }
    }

    /// The same with a domain, that has the last two partitions in the journal at `url`.
    pub(crate) fn with_domain(self, url: &str) -> Self {
        let text = format!("[domains.payments]\npartitions = [6, 7]\njournal = {url:?}\n");
        let name = url.rsplit('/').next().unwrap_or_default();
        Self { domain: Some("payments"), ..self.and_config(&format!("domain-{name}.toml"), &text) }
    }

    /// The same on a journal elsewhere.
    pub(crate) fn on_journal(self, url: &str) -> Self {
        Self { journal: Some(url.to_owned()), ..self }
    }

    /// One of several that share the journal.
    pub(crate) fn as_node(&self, name: &str) -> Self {
        let stderr = self.stderr.with_file_name(format!("{name}.log"));
        Self { address: free_address(), node: Some(name.to_owned()), stderr, ..self.clone() }
    }

    /// The same, whom other nodes reach there.
    pub(crate) fn reached_at(self, address: SocketAddr) -> Self {
        Self { reached_at: Some(address), ..self }
    }

    /// The same on a machine of its own, where it listens on an address that others reach.
    pub(crate) fn on_machine(self, network: &Network, machine: Machine) -> Self {
        let address = (network.there(machine, Wire::World), PORT).into();
        Self { address, namespace: Some(network.namespace(machine)), ..self }
    }

    /// What it has written to its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Another coordinator on the same folder.
    pub(crate) fn at_another_address(&self) -> Self {
        let stderr = self.stderr.with_file_name("at-another-address.log");
        Self { address: free_address(), stderr, ..self.clone() }
    }

    /// Another coordinator at the same address.
    pub(crate) fn in_another_folder(&self) -> Self {
        let stderr = self.stderr.with_file_name("in-another-folder.log");
        Self { data: self.data.with_file_name("other-data"), stderr, ..self.clone() }
    }

    pub(crate) fn server(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The segment that the next life of the coordinator will write to.
    pub(crate) fn next_segment(&self) -> PathBuf {
        let newest = self.newest_segment();
        let number = newest.as_deref().and_then(Path::file_stem).map_or(0, |stem| {
            stem.to_string_lossy().parse::<u64>().expect("segments are named by numbers")
        });
        self.data.join(format!("{:08}.seg", number + 1))
    }

    /// The segment that was written to last.
    pub(crate) fn newest_segment(&self) -> Option<PathBuf> {
        self.files().into_iter().rfind(|path| path.extension().is_some_and(|it| it == "seg"))
    }

    /// Removes the history, which is made from the segments again. A power cut that tears a frame
    /// comes before the history has heard of it; here it may have.
    pub(crate) fn forget_history(&self) {
        let is_history = |path: &PathBuf| path.to_string_lossy().contains("history.sqlite");
        for path in self.files().into_iter().filter(is_history) {
            std::fs::remove_file(path).expect("nobody runs");
        }
    }

    /// What is in the data folder, by name.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.data).into_iter().flatten();
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        files
    }
}

/// One life of a coordinator. Killed when it is dropped.
pub(crate) struct Coordinator {
    setup: Setup,
    child: Child,
    /// It stops by itself when this is closed.
    _stdin: Option<ChildStdin>,
}

/// How a life ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Ended {
    /// Whether it was killed with -9.
    pub(crate) fn killed(&self) -> bool {
        self.status.signal() == Some(Signal::KILL.as_raw())
    }

    /// The one line that says why it ended by itself, which has to end with this exit code.
    pub(crate) fn refusal(&self, code: i32) -> &str {
        assert_eq!(self.status.code(), Some(code), "{}: {}", self.status, self.stderr);
        let mut errors = self.stderr.lines().filter(|line| line.starts_with("error: "));
        let error = errors.next().unwrap_or_else(|| panic!("no line says why: {}", self.stderr));
        assert_eq!(errors.next(), None, "one line is enough: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        error
    }
}

impl Coordinator {
    /// Starts a life, and waits until it takes new transactions.
    pub(crate) async fn start(setup: &Setup) -> Self {
        let mut coordinator = Self::spawn(setup, None);
        if let Err(ended) = coordinator.ready().await {
            panic!("it did not start: {}: {}", ended.status, ended.stderr);
        }
        coordinator
    }

    /// Starts a life, if need be under a tracer, and does not wait for anything.
    ///
    /// # Panics
    ///
    /// If the binary is one that does wrong on purpose: another build may have put it there.
    pub(crate) fn spawn(setup: &Setup, tracer: Option<&Tracer>) -> Self {
        assert_eq!(*VERSION, concat!("unanimous ", env!("CARGO_PKG_VERSION")), "{BINARY}");
        let mut command = match (tracer, &setup.namespace) {
            (Some(tracer), _) => tracer.command(BINARY),
            (None, None) => Command::new(BINARY),
            (None, Some(namespace)) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, BINARY]).env("UNANIMOUS_TOKEN", TOKEN);
                command
            }
        };
        let stderr = File::create(&setup.stderr).expect("the log can be written");
        command
            .args(["serve", "--with-parent", "--config"])
            .arg(&setup.config)
            .args(["--listen", &setup.address.to_string()])
            .env("UNANIMOUS_LOG", "warn")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true);
        match &setup.journal {
            None => command.arg("--data").arg(&setup.data),
            Some(url) => command.args(["--journal", url]),
        };
        if let Some(node) = &setup.node {
            command.args(["--node", node]);
        }
        if let Some(address) = &setup.reached_at {
            command.args(["--node-address", &format!("http://{address}")]);
        }
        let mut child = command.spawn().expect("the binary can be started");
        let stdin = child.stdin.take();
        Self { setup: setup.clone(), child, _stdin: stdin }
    }

    /// Waits until it takes new transactions.
    ///
    /// # Errors
    ///
    /// How it ended, if it ends before.
    pub(crate) async fn ready(&mut self) -> Result<(), Ended> {
        self.answers("/readyz").await
    }

    /// Waits until it answers, whether it takes new transactions or not.
    ///
    /// # Errors
    ///
    /// How it ended, if it ends before.
    pub(crate) async fn alive(&mut self) -> Result<(), Ended> {
        self.answers("/healthz").await
    }

    async fn answers(&mut self, path: &str) -> Result<(), Ended> {
        let http = Http::new(&self.setup.server());
        eventually("there", async || {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return Ok(Err(self.epitaph(status)));
            }
            match http.get(path).await {
                Ok(reply) if reply.status == 200 => Ok(Ok(())),
                Ok(reply) => Err(format!("status {}", reply.status)),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Kills it with -9.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it is our child and can be killed");
    }

    /// Kills it with -9 and starts the next life at once.
    pub(crate) async fn kill_and_respawn(&mut self) {
        self.kill().await;
        *self = Self::spawn(&self.setup.clone(), None);
    }

    /// Its number, unless it has ended.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // One that is dead already gets no signal.
        if let Some(pid) = self.pid() {
            let pid = Pid::from_raw(pid.cast_signed()).expect("no process is number 0");
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it ends.
    pub(crate) async fn ended(&mut self) -> Ended {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("it ends in time").expect("it is our child");
        self.epitaph(status)
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn stop(&mut self) -> Ended {
        self.signal(Signal::TERM);
        self.ended().await
    }

    fn epitaph(&self, status: ExitStatus) -> Ended {
        let stderr = std::fs::read(&self.setup.stderr).unwrap_or_default();
        Ended { status, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }
}
