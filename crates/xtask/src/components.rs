//! What the tests need that a machine may not have: how to see whether it is there, how to install it.
//!
//! Nothing is installed that is there already, and nothing is asked of the user: either it can be
//! installed without a question, or the reason why not is returned.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::root;

/// Something the tests need beyond cargo and this repository.
#[derive(Debug)]
pub(crate) struct Component {
    pub(crate) name: &'static str,
    /// A command that succeeds if the component is there.
    probe: &'static [&'static str],
    install: Install,
}

#[derive(Debug)]
enum Install {
    /// Packages of Debian and Ubuntu.
    Apt(&'static [&'static str]),
    /// A component of the Rust toolchain in use.
    Rustup(&'static str),
    /// A crate with its version, built into `target/tools`.
    Cargo(&'static str, &'static str),
}

pub(crate) const RUSTFMT: Component = Component {
    name: "rustfmt",
    probe: &["cargo", "fmt", "--version"],
    install: Install::Rustup("rustfmt"),
};

pub(crate) const CLIPPY: Component = Component {
    name: "clippy",
    probe: &["cargo", "clippy", "--version"],
    install: Install::Rustup("clippy"),
};

/// Builds the SQLite that is compiled in.
pub(crate) const C_COMPILER: Component = Component {
    name: "C compiler",
    probe: &["cc", "--version"],
    install: Install::Apt(&["build-essential"]),
};

/// Checks licences, sources and bans of dependencies.
pub(crate) const CARGO_DENY: Component = Component {
    name: "cargo-deny",
    probe: &["cargo", "deny", "--version"],
    install: Install::Cargo("cargo-deny", "0.20.2"),
};

/// Stops the server at an exact system call, or lets that call fail.
pub(crate) const STRACE: Component = Component {
    name: "strace",
    probe: &["strace", "--version"],
    install: Install::Apt(&["strace"]),
};

/// A database that takes part. The tests start servers of their own; the system's is left alone.
pub(crate) const POSTGRESQL: Component = Component {
    name: "postgresql",
    probe: &["sh", "-c", "ls /usr/lib/postgresql/*/bin/postgres"],
    install: Install::Apt(&["postgresql"]),
};

/// A database that takes part, with its own client. The tests start servers of their own.
pub(crate) const MARIADB: Component = Component {
    name: "mariadb",
    probe: &[
        "sh",
        "-c",
        "PATH=$PATH:/usr/sbin; command -v mariadbd && command -v mariadb-install-db",
    ],
    install: Install::Apt(&["mariadb-server"]),
};

/// A server that takes part, with its own client. The tests start servers of their own.
pub(crate) const REDIS: Component = Component {
    name: "redis",
    probe: &["sh", "-c", "redis-server --version && redis-cli --version"],
    install: Install::Apt(&["redis-server"]),
};

/// A cluster for the journal, with its own client. The tests start members of their own.
pub(crate) const ETCD: Component = Component {
    name: "etcd",
    probe: &["sh", "-c", "etcd --version && etcdctl version"],
    install: Install::Apt(&["etcd-server", "etcd-client"]),
};

/// Machines of their own for nodes that are cut off.
pub(crate) const IPROUTE: Component = Component {
    name: "iproute2",
    probe: &["sh", "-c", "ip -Version && tc -Version"],
    install: Install::Apt(&["iproute2"]),
};

/// Never there, and refused by cargo before it looks for it.
#[cfg(test)]
pub(crate) const MISSING: Component =
    Component { name: "nothing", probe: &["false"], install: Install::Cargo("", "0.0.0") };

/// Installs the component unless it is there.
///
/// # Errors
///
/// One line that says why it could not be installed.
pub(crate) fn ensure(component: &Component) -> Result<(), String> {
    if is_there(component) {
        return Ok(());
    }
    println!("   installing {}", component.name);
    let installed = match component.install {
        Install::Apt(packages) => apt(packages),
        Install::Rustup(name) => succeed(command("rustup").args(["component", "add", name])),
        Install::Cargo(name, version) => succeed(
            command("cargo")
                // It is built faster than it would be optimized, and runs for seconds.
                .args(["install", name, "--version", version, "--locked", "--debug", "--root"])
                .arg(tools()),
        ),
    };
    let name = component.name;
    installed.map_err(|why| format!("{name} is not there and cannot be installed: {why}"))?;
    match is_there(component) {
        true => Ok(()),
        false => Err(format!("{name} was installed and is still not found")),
    }
}

/// A command that runs in the workspace and finds what [`ensure`] has installed.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    let mut paths = vec![tools().join("bin")];
    paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    if let Ok(paths) = std::env::join_paths(paths) {
        command.env("PATH", paths);
    }
    command
}

fn tools() -> PathBuf {
    root().join("target/tools")
}

fn is_there(component: &Component) -> bool {
    let (program, args) = component.probe.split_first().expect("a probe names its program");
    let mut probe = command(program);
    probe.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn apt(packages: &[&str]) -> Result<(), String> {
    let install = || {
        // A fresh machine may be busy with its own upgrades.
        let args = ["--option=DPkg::Lock::Timeout=120", "install", "--yes"];
        succeed(apt_get()?.args(args).arg("--no-install-recommends").args(packages))
    };
    // The lists of a fresh machine are empty or old; where they are good, refreshing costs seconds.
    install().or_else(|_| {
        succeed(apt_get()?.arg("update"))?;
        install()
    })
}

fn apt_get() -> Result<Command, String> {
    let mut apt_get = match (is_root(), may_sudo()) {
        (true, _) => command("apt-get"),
        (false, true) => {
            let mut sudo = command("sudo");
            sudo.args(["--non-interactive", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            sudo
        }
        (false, false) => return Err("apt-get needs root or sudo without a password".to_owned()),
    };
    apt_get.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(apt_get)
}

fn is_root() -> bool {
    command("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn may_sudo() -> bool {
    let mut sudo = command("sudo");
    sudo.args(["--non-interactive", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    sudo.status().is_ok_and(|status| status.success())
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{program}` ended with {status}")),
        Err(error) => Err(format!("`{program}` cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_installed() {
        let there = Component {
            name: "true",
            probe: &["true"],
            install: Install::Apt(&["a package that does not exist"]),
        };
        assert_eq!(ensure(&there), Ok(()));
    }

    #[test]
    fn a_command_that_fails_or_is_missing_is_named() {
        let why = succeed(&mut command("false")).expect_err("fails");
        assert_eq!(why, "`false` ended with exit status: 1");
        let why = succeed(&mut command("no-such-program")).expect_err("is missing");
        assert!(why.starts_with("`no-such-program` cannot be run: "), "{why}");
    }
}
