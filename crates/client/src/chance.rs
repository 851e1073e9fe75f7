//! The only use of chance: idempotency keys, and pauses that do not fall in step.

/// A new idempotency key: 128 random bits in hexadecimal.
pub(crate) fn key() -> String {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).expect("the operating system has random bits");
    format!("{:032x}", u128::from_ne_bytes(bits))
}

/// A number from half of `value` to all of it.
pub(crate) fn jitter(value: u64) -> u64 {
    let half = value / 2;
    value - getrandom::u64().expect("the operating system has random bits") % (half + 1)
}

/// A number from zero to below `value`; zero if there is none.
pub(crate) fn below(value: u64) -> u64 {
    getrandom::u64().expect("the operating system has random bits").checked_rem(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_are_printable() {
        let (a, b) = (key(), key());
        assert_ne!(a, b);
        assert!(a.len() == 32 && a.bytes().all(|byte| byte.is_ascii_hexdigit()), "{a}");
    }

    #[test]
    fn a_jittered_pause_is_at_least_half_and_never_longer() {
        for value in [0, 1, 2, 25, 2_000] {
            assert!((0..100).all(|_| (value - value / 2..=value).contains(&jitter(value))));
        }
    }
}
