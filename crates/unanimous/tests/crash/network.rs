//! Machines of their own for processes of a test: network namespaces with two wires each, one to where
//! the journal is and one to everybody else. What is sent into a wire while it is cut is lost, and
//! nobody is told.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a wire leads to. The two are networks of their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wire {
    Journal,
    World,
}

/// Which way what is sent into a wire goes, as seen from the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    Out,
    In,
}

/// Machines, and this one in the midst of them. All but this one go with their handle.
#[derive(Debug)]
pub(crate) struct Network {
    /// Sets it apart from every other, also of other processes.
    mark: String,
    /// The second and third of the four numbers of every address at the [`Wire::Journal`] and at the
    /// [`Wire::World`].
    middles: [(u8, u8); 2],
    machines: u8,
}

/// Where machines begin; this one is number 1.
const FIRST: u8 = 10;

/// A machine by its number.
pub(crate) type Machine = u8;

impl Network {
    /// So many machines. `None` if this process may not make any, after saying so: then the same is
    /// tried by [`strait`](crate::strait)s.
    pub(crate) fn of(machines: Machine) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let second = 64 + (process % 128) as u8;
        let third = 2 * ((process / 128 % 64) as u8).wrapping_add(number);
        let mark = format!("u{process:x}{number}");
        let middles = [(second, third), (second, third.wrapping_add(1))];
        let network = Self { mark, middles, machines };
        match network.lay() {
            Ok(()) => Some(network),
            Err(why) => {
                eprintln!("SKIPPED: no network namespaces: {why}");
                None
            }
        }
    }

    /// Where others reach this machine.
    pub(crate) fn here(&self, wire: Wire) -> IpAddr {
        self.address(wire, 1)
    }

    /// Where others reach a machine.
    pub(crate) fn there(&self, machine: Machine, wire: Wire) -> IpAddr {
        self.address(wire, FIRST + machine)
    }

    /// All addresses at a wire, as `address/bits`.
    pub(crate) fn all(&self, wire: Wire) -> String {
        format!("{}/24", self.address(wire, 0))
    }

    /// The name of the namespace that a machine is.
    pub(crate) fn namespace(&self, machine: Machine) -> String {
        format!("{}m{machine}", self.mark)
    }

    /// Lets nothing through any more.
    pub(crate) fn cut(&self, machine: Machine, wire: Wire, way: Way) {
        self.queue("replace", machine, wire, way, "blackhole").expect("the wire can be cut");
    }

    /// Lets everything through again.
    pub(crate) fn mend(&self, machine: Machine, wire: Wire, way: Way) {
        self.queue("del", machine, wire, way, "").expect("the wire was cut");
    }

    fn queue(
        &self,
        verb: &str,
        machine: Machine,
        wire: Wire,
        way: Way,
        kind: &str,
    ) -> Result<(), String> {
        let (namespace, near) = (self.namespace(machine), wire.name());
        run(&match way {
            Way::Out => format!("tc -n {namespace} qdisc {verb} dev {near} root {kind}"),
            Way::In => format!("tc qdisc {verb} dev {} root {kind}", self.end(machine, wire)),
        })
    }

    fn lay(&self) -> Result<(), String> {
        for wire in [Wire::Journal, Wire::World] {
            let bridge = self.bridge(wire);
            run(&format!("ip link add {bridge} type bridge"))?;
            run(&format!("ip addr add {}/24 dev {bridge}", self.here(wire)))?;
            run(&format!("ip link set {bridge} up"))?;
        }
        for machine in 0..self.machines {
            let namespace = self.namespace(machine);
            run(&format!("ip netns add {namespace}"))?;
            run(&format!("ip -n {namespace} link set lo up"))?;
            for wire in [Wire::Journal, Wire::World] {
                let (far, near) = (self.end(machine, wire), wire.name());
                let address = self.there(machine, wire);
                run(&format!("ip link add {far} type veth peer name {near} netns {namespace}"))?;
                run(&format!("ip link set {far} master {} up", self.bridge(wire)))?;
                run(&format!("ip -n {namespace} addr add {address}/24 dev {near}"))?;
                run(&format!("ip -n {namespace} link set {near} up"))?;
            }
        }
        Ok(())
    }

    fn address(&self, wire: Wire, last: u8) -> IpAddr {
        let (second, third) = self.middles[wire as usize];
        Ipv4Addr::new(10, second, third, last).into()
    }

    /// The end of a wire that is at this machine.
    fn end(&self, machine: Machine, wire: Wire) -> String {
        format!("{}{}{machine}", self.mark, &wire.name()[..1])
    }

    fn bridge(&self, wire: Wire) -> String {
        format!("{}{}", self.mark, &wire.name()[..1])
    }
}

impl Wire {
    /// What a machine calls its end.
    fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::World => "world",
        }
    }
}

impl Drop for Network {
    /// What was not laid cannot be removed.
    fn drop(&mut self) {
        for machine in 0..self.machines {
            for wire in [Wire::Journal, Wire::World] {
                drop(run(&format!("ip link del {}", self.end(machine, wire))));
            }
            drop(run(&format!("ip netns del {}", self.namespace(machine))));
        }
        for wire in [Wire::Journal, Wire::World] {
            drop(run(&format!("ip link del {}", self.bridge(wire))));
        }
    }
}

/// Runs a command.
///
/// # Errors
///
/// What it says if it fails.
fn run(words: &str) -> Result<(), String> {
    let mut words_of = words.split_whitespace();
    let mut command = Command::new(words_of.next().unwrap_or_default());
    let output = command.args(words_of).output().map_err(|error| format!("{words}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{words}: {}", said.trim()))
}
