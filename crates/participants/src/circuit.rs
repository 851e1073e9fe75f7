//! Whether to call a resource that has not been answering: the circuit breaker's rules.
//!
//! Pure: time is told as the duration since any fixed start. A circuit opens after
//! [`FAILURES_TO_OPEN`] calls in a row, over at least [`SILENCE_TO_OPEN`], made no contact. While it
//! is open, one call at a time is let through as a probe, with pauses that double; any contact
//! closes it. An answer that refuses, or makes no sense, is contact: only silence opens a circuit.

use std::time::Duration;

use crate::CircuitState;
use crate::limits::{FAILURES_TO_OPEN, PROBE_PAUSE_MAX, PROBE_PAUSE_MIN, SILENCE_TO_OPEN};

/// What is known of a resource from the calls to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circuit {
    status: Status,
}

#[derive(Clone, Copy, Debug)]
enum Status {
    Closed { failures: u32, since: Duration },
    Open { since: Duration, probe_at: Duration, pause: Duration },
    Probing { since: Duration, pause: Duration },
}

impl Default for Status {
    fn default() -> Self {
        Self::Closed { failures: 0, since: Duration::ZERO }
    }
}

/// Whether a call may go out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// It may, and must be given back by [`Circuit::contact`], [`Circuit::silence`] or
    /// [`Circuit::given_up`].
    Pass(Pass),
    /// It may not: the resource has been silent for so long.
    Refused(Duration),
}

/// What a call that goes out means to its circuit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pass {
    /// One of many.
    Ordinary,
    /// The one that is to find out whether the resource answers again.
    Probe,
}

/// What an answer says of the time before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Contacted {
    /// Calls went out then, too.
    AsBefore,
    /// It had not answered for so long that calls did not go out any more.
    Again,
}

impl Circuit {
    /// Asks whether a call may go out at `now`.
    pub fn admit(&mut self, now: Duration) -> Admission {
        match self.status {
            Status::Closed { .. } => Admission::Pass(Pass::Ordinary),
            Status::Open { since, probe_at, pause } if probe_at <= now => {
                self.status = Status::Probing { since, pause };
                Admission::Pass(Pass::Probe)
            }
            Status::Open { since, .. } | Status::Probing { since, .. } => {
                Admission::Refused(now.saturating_sub(since))
            }
        }
    }

    /// A call was answered, whatever the answer was.
    pub fn contact(&mut self) -> Contacted {
        let before = self.state();
        *self = Self::default();
        match before {
            CircuitState::Closed => Contacted::AsBefore,
            CircuitState::Open | CircuitState::Probing => Contacted::Again,
        }
    }

    /// A call ended without contact at `now`.
    pub fn silence(&mut self, now: Duration, pass: Pass) {
        self.status = match (self.status, pass) {
            (Status::Closed { failures, since }, _) => {
                let since = if failures == 0 { now } else { since };
                let failures = failures.saturating_add(1);
                let long = now.saturating_sub(since) >= SILENCE_TO_OPEN;
                if failures >= FAILURES_TO_OPEN && long {
                    let pause = PROBE_PAUSE_MIN;
                    Status::Open { since, probe_at: now + pause, pause }
                } else {
                    Status::Closed { failures, since }
                }
            }
            (Status::Probing { since, pause }, Pass::Probe) => {
                let pause = (pause * 2).min(PROBE_PAUSE_MAX);
                Status::Open { since, probe_at: now + pause, pause }
            }
            // A call from before the circuit opened tells nothing new.
            (status @ (Status::Open { .. } | Status::Probing { .. }), Pass::Ordinary)
            | (status @ Status::Open { .. }, Pass::Probe) => status,
        };
    }

    /// A call was dropped before it ended, so it tells nothing; the next one may probe instead.
    pub fn given_up(&mut self, now: Duration, pass: Pass) {
        if let (Status::Probing { since, pause }, Pass::Probe) = (self.status, pass) {
            self.status = Status::Open { since, probe_at: now, pause };
        }
    }

    /// Where it stands.
    pub fn state(&self) -> CircuitState {
        match self.status {
            Status::Closed { .. } => CircuitState::Closed,
            Status::Open { .. } => CircuitState::Open,
            Status::Probing { .. } => CircuitState::Probing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn fail(circuit: &mut Circuit, at_ms: u64, pass: Pass) {
        circuit.silence(ms(at_ms), pass);
    }

    /// A circuit that opened at 1,100 ms, silent since 100 ms.
    fn open() -> Circuit {
        let mut circuit = Circuit::default();
        for at_ms in [100, 150, 250, 450] {
            fail(&mut circuit, at_ms, Pass::Ordinary);
            assert_eq!(circuit.state(), CircuitState::Closed);
        }
        fail(&mut circuit, 1_100, Pass::Ordinary);
        assert_eq!(circuit.state(), CircuitState::Open);
        circuit
    }

    #[test]
    fn a_burst_of_failures_does_not_open_a_circuit_and_lasting_silence_does() {
        let mut circuit = Circuit::default();
        for _ in 0..1_000 {
            fail(&mut circuit, 100, Pass::Ordinary);
        }
        assert_eq!(circuit.state(), CircuitState::Closed);
        fail(&mut circuit, 1_100, Pass::Ordinary);
        assert_eq!(circuit.state(), CircuitState::Open);
    }

    #[test]
    fn contact_starts_the_count_again() {
        let mut circuit = Circuit::default();
        for at_ms in [0, 500, 1_000, 1_500] {
            fail(&mut circuit, at_ms, Pass::Ordinary);
        }
        assert_eq!(circuit.contact(), Contacted::AsBefore);
        fail(&mut circuit, 2_000, Pass::Ordinary);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[test]
    fn an_open_circuit_says_since_when_and_lets_one_probe_through() {
        let mut circuit = open();
        assert_eq!(circuit.admit(ms(1_149)), Admission::Refused(ms(1_049)));
        assert_eq!(circuit.admit(ms(1_150)), Admission::Pass(Pass::Probe));
        assert_eq!(circuit.state(), CircuitState::Probing);
        assert!(matches!(circuit.admit(ms(9_999)), Admission::Refused(_)));
    }

    #[test]
    fn the_pause_between_probes_doubles_up_to_its_cap() {
        let mut circuit = open();
        let (mut now, mut pause) = (ms(1_100), PROBE_PAUSE_MIN);
        for _ in 0..20 {
            assert!(matches!(circuit.admit(now + pause - ms(1)), Admission::Refused(_)));
            now += pause;
            assert_eq!(circuit.admit(now), Admission::Pass(Pass::Probe));
            circuit.silence(now, Pass::Probe);
            pause = (pause * 2).min(PROBE_PAUSE_MAX);
        }
        assert_eq!(pause, PROBE_PAUSE_MAX);
    }

    #[test]
    fn a_probe_that_makes_contact_closes_the_circuit() {
        let mut circuit = open();
        assert_eq!(circuit.admit(ms(1_150)), Admission::Pass(Pass::Probe));
        assert_eq!(circuit.contact(), Contacted::Again);
        assert_eq!(circuit.contact(), Contacted::AsBefore);
        assert_eq!(circuit.admit(ms(1_150)), Admission::Pass(Pass::Ordinary));
    }

    #[test]
    fn calls_from_before_neither_answer_for_the_probe_nor_delay_it() {
        let mut circuit = open();
        fail(&mut circuit, 1_140, Pass::Ordinary);
        assert_eq!(circuit.admit(ms(1_150)), Admission::Pass(Pass::Probe));
        fail(&mut circuit, 1_160, Pass::Ordinary);
        assert_eq!(circuit.state(), CircuitState::Probing);
    }

    #[test]
    fn a_probe_that_was_given_up_is_made_up_for_by_the_next_call() {
        let mut circuit = open();
        assert_eq!(circuit.admit(ms(1_150)), Admission::Pass(Pass::Probe));
        circuit.given_up(ms(1_200), Pass::Probe);
        assert_eq!(circuit.admit(ms(1_200)), Admission::Pass(Pass::Probe));
    }
}
