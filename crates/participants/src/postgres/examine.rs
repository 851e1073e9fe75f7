//! Whether a PostgreSQL database can take part, and what to change if not.
//!
//! Three questions are asked and nothing is changed: what the server is, what our role may do, and
//! how the server is set. Each is answered only by who is well as to the one before. What the last
//! answer means is decided in [`judge`], which asks nothing.
//!
//! Unfit is what makes every vote a no, or a yes worth nothing. What costs, or fails only sometimes,
//! is doubtful. `synchronous_commit = off` is neither while there is no standby: PostgreSQL writes a
//! prepared transaction and its end to disk whatever that setting is.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Inner;
use super::login::NoConnection;
use super::wire::Connection;
use crate::Finding;
use crate::limits::{
    CLOCK_DIFFERENCE_MAX, IDLE_CONNECTION_KEPT, POSTGRES_TIMEOUT_MIN, PREPARED_SHOWN_MAX,
    PREPARED_YOUNG,
};

/// The first that numbers transactions in 64 bits, by which an end that was not heard is looked up.
const VERSION_MIN: i32 = 130_000;

/// What the server is. Asked first, because an old one does not understand the next question.
#[derive(Clone, Debug, Deserialize)]
struct Server {
    number: i32,
    /// As its makers write it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    version: String,
    /// The process that answers.
    process: i32,
}

const WHAT_IT_IS: &str = "SELECT json_build_object( \
    'number', current_setting('server_version_num')::int, \
    'version', current_setting('server_version'), \
    'process', pg_backend_pid())";

/// What our role may do. Asked before anything is read that not everybody may read.
#[derive(Clone, Debug, Deserialize)]
struct Rights {
    user: String,
    list: bool,
    look_up: bool,
}

const WHAT_WE_MAY: &str = "SELECT json_build_object( \
    'user', current_user, \
    'list', has_table_privilege('pg_catalog.pg_prepared_xacts', 'SELECT'), \
    'look_up', has_function_privilege('pg_catalog.pg_xact_status(xid8)', 'EXECUTE'))";

/// How the server is set, as our role sees it. Times are milliseconds; zero stands for none.
#[derive(Clone, Debug, Deserialize)]
struct Seen {
    standby: bool,
    read_only: bool,
    fsync: bool,
    synchronous_commit: String,
    standbys: String,
    prepared_max: u64,
    prepared: u64,
    connections_max: u64,
    /// Without our own.
    connections_used: u64,
    user: String,
    /// The roles that own prepared transactions under names like ours which our role may not end.
    strangers: Vec<String>,
    statement_timeout: u64,
    idle_in_transaction_session_timeout: u64,
    transaction_timeout: u64,
    idle_session_timeout: u64,
    now_ms: i64,
    /// Anybody's that are not young any more, in any database of the server.
    old_count: u64,
    /// The oldest of them.
    old: Vec<Old>,
}

#[derive(Clone, Debug, Deserialize)]
struct Old {
    gid: String,
    owner: String,
    database: String,
    age_s: u64,
}

fn how_it_is_set() -> String {
    let young_s = PREPARED_YOUNG.as_secs();
    let time = |name| {
        format!(
            "'{name}', coalesce((SELECT setting::bigint FROM pg_settings WHERE name = '{name}'), 0)"
        )
    };
    format!(
        "WITH aged AS (SELECT gid, owner, database, \
             extract(epoch FROM clock_timestamp() - prepared)::bigint AS age_s \
             FROM pg_prepared_xacts), \
         old AS (SELECT * FROM aged WHERE age_s >= {young_s}), \
         oldest AS (SELECT * FROM old ORDER BY age_s DESC LIMIT {PREPARED_SHOWN_MAX}), \
         mine AS (SELECT count(*) AS number FROM pg_stat_activity \
             WHERE application_name = 'unanimous' AND usename = current_user) \
         SELECT json_build_object( \
         'standby', pg_is_in_recovery(), \
         'read_only', current_setting('default_transaction_read_only')::bool, \
         'fsync', current_setting('fsync')::bool, \
         'synchronous_commit', current_setting('synchronous_commit'), \
         'standbys', current_setting('synchronous_standby_names'), \
         'prepared_max', current_setting('max_prepared_transactions')::int, \
         'prepared', (SELECT count(*) FROM aged), \
         'connections_max', current_setting('max_connections')::int \
             - current_setting('superuser_reserved_connections')::int, \
         'connections_used', greatest(0, \
             (SELECT sum(numbackends) FROM pg_stat_database) - (SELECT number FROM mine)), \
         'user', current_user, \
         'strangers', (SELECT coalesce(json_agg(DISTINCT owner), '[]') FROM aged \
             WHERE database = current_database() AND gid LIKE 'una:%' \
             AND owner <> current_user AND NOT current_setting('is_superuser')::bool), \
         {}, {}, {}, {}, \
         'now_ms', (extract(epoch FROM clock_timestamp()) * 1000)::bigint, \
         'old_count', (SELECT count(*) FROM old), \
         'old', (SELECT coalesce(json_agg(row_to_json(oldest)), '[]') FROM oldest))",
        time("statement_timeout"),
        time("idle_in_transaction_session_timeout"),
        time("transaction_timeout"),
        time("idle_session_timeout"),
    )
}

pub(super) async fn examine(inner: &Inner, connections: usize, patience: Duration) -> Vec<Finding> {
    match timeout(patience, look(inner, connections)).await {
        Ok(findings) => findings,
        Err(_) => {
            let detail = format!("no answer within {} ms", patience.as_millis());
            vec![Finding::unfit("connection", detail)]
        }
    }
}

async fn look(inner: &Inner, connections: usize) -> Vec<Finding> {
    let mut lent = match inner.second_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return vec![unconnected(&why)],
    };
    let connection = &mut lent.connection;
    let server: Server = match ask(connection, WHAT_IT_IS).await {
        Ok(server) => server,
        Err(why) => return vec![Finding::unfit("version", why)],
    };
    let mut findings = vec![version(&server), pooler(connection.process, server.process)];
    if server.number >= VERSION_MIN {
        findings.extend(look_closer(connection, connections).await);
    }
    inner.second_phase.give_back(lent);
    findings
}

async fn look_closer(connection: &mut Connection, connections: usize) -> Vec<Finding> {
    match ask(connection, WHAT_WE_MAY).await.map(|rights| missing(&rights)) {
        Ok(None) => {}
        Ok(Some(finding)) => return vec![finding],
        Err(why) => return vec![Finding::doubtful("privileges", why)],
    }
    let before_ms = now_ms();
    match ask(connection, &how_it_is_set()).await {
        Ok(seen) => judge(&seen, connections as u64, before_ms..now_ms()),
        Err(why) => vec![Finding::doubtful("settings", why)],
    }
}

async fn ask<T: DeserializeOwned>(connection: &mut Connection, sql: &str) -> Result<T, String> {
    let executed = connection.simple(sql).await.map_err(|broken| broken.0)?;
    let text = executed.map_err(|refused| format!("it cannot be asked: {refused}"))?.first;
    serde_json::from_str(&text.unwrap_or_default())
        .map_err(|error| format!("it answers what PostgreSQL would not: {error}"))
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

fn unconnected(why: &NoConnection) -> Finding {
    let to_do = match why {
        NoConnection::Unheard(_) => "start PostgreSQL, or correct host and port in the url",
        NoConnection::Refused(refused) => match refused.code.as_str() {
            "28P01" => "correct the user in the url, or password_env or password_file",
            "28000" => "let the user in by pg_hba.conf, or correct it in the url",
            "3D000" => "create the database, or correct it in the url",
            "53300" => "raise max_connections, or lower what others take",
            "57P03" => "wait until the server has started",
            _ => "see the server's log",
        },
        NoConnection::Unable(_) => return Finding::unfit("connection", why.to_string()),
    };
    Finding::unfit("connection", format!("{why}; {to_do}"))
}

fn version(server: &Server) -> Finding {
    // What follows the number is the packager's.
    let version = server.version.split(' ').next().unwrap_or_default();
    match server.number >= VERSION_MIN {
        true => Finding::fit("version", format!("PostgreSQL {version}")),
        false => Finding::unfit(
            "version",
            format!("PostgreSQL {version} cannot tell how a branch ended: use 13 or later"),
        ),
    }
}

/// Who answers should be who let us in. A pooler lets in by itself, and names another process.
fn pooler(let_in: i32, answers: i32) -> Finding {
    match let_in == answers {
        true => Finding::fit("pooler", "no pooler"),
        false => Finding::doubtful(
            "pooler",
            "a pooler is in the way: name the server itself in the url, or make sure that the \
             pooler keeps one server connection for a whole transaction and one role for all",
        ),
    }
}

/// A right that our role needs and does not have.
fn missing(rights: &Rights) -> Option<Finding> {
    let Rights { user, list, look_up } = rights;
    let detail = match (list, look_up) {
        (false, _) => format!("GRANT SELECT ON pg_prepared_xacts TO \"{user}\", to find orphans"),
        (true, false) => format!(
            "GRANT EXECUTE ON FUNCTION pg_xact_status(xid8) TO \"{user}\", to look up how a branch \
             ended"
        ),
        (true, true) => return None,
    };
    Some(Finding::unfit("privileges", detail))
}

fn judge(seen: &Seen, connections: u64, asked_ms: Range<i64>) -> Vec<Finding> {
    vec![
        primary(seen),
        places(seen, connections),
        room(seen, connections),
        ownership(seen),
        durability(seen),
        timeouts(seen),
        old(seen),
        clock(seen.now_ms, asked_ms),
    ]
}

fn primary(seen: &Seen) -> Finding {
    match (seen.standby, seen.read_only) {
        (true, _) => Finding::unfit(
            "primary",
            "it is a standby, which cannot prepare: name the primary in the url",
        ),
        (false, true) => Finding::unfit(
            "primary",
            format!(
                "default_transaction_read_only is on: ALTER ROLE \"{}\" SET \
                 default_transaction_read_only = off",
                seen.user
            ),
        ),
        (false, false) => Finding::fit("primary", "primary"),
    }
}

fn places(seen: &Seen, connections: u64) -> Finding {
    let Seen { prepared_max, prepared, .. } = *seen;
    let wanted = connections.max(seen.connections_max);
    let set = format!(
        "set max_prepared_transactions = {wanted} in postgresql.conf and restart PostgreSQL"
    );
    let subject = "max_prepared_transactions";
    if prepared_max == 0 {
        Finding::unfit(subject, format!("it is 0, so nothing can be prepared: {set}"))
    } else if prepared >= prepared_max {
        let detail =
            format!("all {prepared_max} places are taken: finish what is prepared, or {set}");
        Finding::unfit(subject, detail)
    } else if prepared_max < connections {
        let detail = format!("{prepared_max} places for {connections} connections: {set}");
        Finding::doubtful(subject, detail)
    } else if prepared_max - prepared < connections {
        let left = prepared_max - prepared;
        let detail = format!(
            "{left} of {prepared_max} places are left for {connections} connections: {set}"
        );
        Finding::doubtful(subject, detail)
    } else {
        Finding::fit(subject, format!("{prepared} of {prepared_max} places taken"))
    }
}

fn room(seen: &Seen, connections: u64) -> Finding {
    let wanted = connections + connections.div_ceil(2);
    let left = seen.connections_max.saturating_sub(seen.connections_used);
    match left >= wanted {
        true => Finding::fit("max_connections", format!("room for {left} connections")),
        false => Finding::doubtful(
            "max_connections",
            format!(
                "room for {left} connections, of which we take {wanted}: raise max_connections, or \
                 lower connections in the url"
            ),
        ),
    }
}

/// Only who prepared a branch, or a superuser, may finish it.
fn ownership(seen: &Seen) -> Finding {
    let user = &seen.user;
    match &*seen.strangers {
        [] => Finding::fit("privileges", format!("role {user}")),
        strangers => Finding::doubtful(
            "privileges",
            format!(
                "branches were prepared by role {}, and {user} may not finish them: connect with \
                 the role that prepared them until they are gone",
                strangers.join(", ")
            ),
        ),
    }
}

fn durability(seen: &Seen) -> Finding {
    if !seen.fsync {
        return Finding::unfit(
            "fsync",
            "fsync is off, so that a vote does not survive a power cut: set fsync = on in \
             postgresql.conf",
        );
    }
    let waits = !matches!(&*seen.synchronous_commit, "off" | "local");
    match seen.standbys.is_empty() || waits {
        true => Finding::fit("synchronous_commit", "votes are durable"),
        false => Finding::doubtful(
            "synchronous_commit",
            format!(
                "it is {}, so that a vote does not wait for the synchronous standbys, and is lost if \
                 one takes over: ALTER ROLE \"{}\" SET synchronous_commit = on",
                seen.synchronous_commit, seen.user
            ),
        ),
    }
}

/// What ends statements or connections of ours that are only waiting.
fn timeouts(seen: &Seen) -> Finding {
    let short = POSTGRES_TIMEOUT_MIN.as_millis() as u64;
    let kept = IDLE_CONNECTION_KEPT.as_millis() as u64;
    let all = [
        ("statement_timeout", seen.statement_timeout, short),
        ("idle_in_transaction_session_timeout", seen.idle_in_transaction_session_timeout, short),
        ("transaction_timeout", seen.transaction_timeout, short),
        ("idle_session_timeout", seen.idle_session_timeout, kept),
    ];
    match all.into_iter().find(|&(_, ms, least)| ms > 0 && ms < least) {
        None => Finding::fit("timeouts", "no short timeouts"),
        Some((name, ms, _)) => Finding::doubtful(
            name,
            format!(
                "{ms} ms may cut calls that would have come out: ALTER ROLE \"{}\" SET {name} = 0",
                seen.user
            ),
        ),
    }
}

fn old(seen: &Seen) -> Finding {
    let Some(oldest) = seen.old.first() else {
        return Finding::fit("old prepared transactions", "nothing prepared for long");
    };
    let shown = |it: &Old| {
        format!("'{}' in {} by {}, {} s", it.gid.escape_debug(), it.database, it.owner, it.age_s)
    };
    let list: Vec<_> = seen.old.iter().map(shown).collect();
    let more = match seen.old_count.saturating_sub(list.len() as u64) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Finding::doubtful(
        "old prepared transactions",
        format!(
            "{} hold locks and keep VACUUM from its work ({}{more}): have them finished by who \
             prepared them, or by COMMIT or ROLLBACK PREPARED '{}'",
            seen.old_count,
            list.join("; "),
            oldest.gid.escape_debug()
        ),
    )
}

/// A clock is off by what no way of the message could explain.
fn clock(theirs_ms: i64, asked_ms: Range<i64>) -> Finding {
    let (by_ms, how) = match theirs_ms {
        early if early < asked_ms.start => (asked_ms.start - early, "behind"),
        late if late > asked_ms.end => (late - asked_ms.end, "ahead of"),
        _ => (0, "with"),
    };
    match u128::from(by_ms.unsigned_abs()) > CLOCK_DIFFERENCE_MAX.as_millis() {
        false => Finding::fit("clock", "clocks agree"),
        true => Finding::doubtful(
            "clock",
            format!(
                "its clock is {by_ms} ms {how} this machine's, so that ages and logs cannot be \
                 compared: keep both by NTP"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fitness;

    fn well() -> Seen {
        Seen {
            standby: false,
            read_only: false,
            fsync: true,
            synchronous_commit: "on".into(),
            standbys: String::new(),
            prepared_max: 100,
            prepared: 0,
            connections_max: 97,
            connections_used: 5,
            user: "app".into(),
            strangers: Vec::new(),
            statement_timeout: 0,
            idle_in_transaction_session_timeout: 0,
            transaction_timeout: 0,
            idle_session_timeout: 0,
            now_ms: 10_000,
            old_count: 0,
            old: Vec::new(),
        }
    }

    fn not_fit(seen: &Seen) -> Vec<Finding> {
        let mut findings = judge(seen, 16, 9_990..10_010);
        findings.retain(|finding| finding.fitness != Fitness::Fit);
        findings
    }

    #[track_caller]
    fn found(change: impl FnOnce(&mut Seen), fitness: Fitness, subject: &str, named: &str) {
        let mut seen = well();
        change(&mut seen);
        let findings = not_fit(&seen);
        let [finding] = &*findings else { panic!("one finding: {findings:?}") };
        assert_eq!((finding.fitness, finding.subject), (fitness, subject), "{}", finding.detail);
        assert!(finding.detail.contains(named), "{}", finding.detail);
    }

    #[test]
    fn a_server_that_is_well_set_has_nothing_to_change() {
        assert_eq!(not_fit(&well()), []);
        let alone = Seen { synchronous_commit: "off".into(), ..well() };
        assert_eq!(not_fit(&alone), [], "PREPARE TRANSACTION syncs all the same");
    }

    #[test]
    fn what_keeps_every_branch_from_a_vote_is_unfit() {
        use Fitness::Unfit;
        found(|it| it.standby = true, Unfit, "primary", "name the primary");
        found(|it| it.read_only = true, Unfit, "primary", "read_only = off");
        let places = "max_prepared_transactions";
        found(|it| it.prepared_max = 0, Unfit, places, "set max_prepared_transactions = 97");
        found(|it| it.prepared = 100, Unfit, places, "all 100 places are taken");
        found(|it| it.fsync = false, Unfit, "fsync", "fsync = on");
    }

    #[test]
    fn what_costs_or_fails_only_sometimes_is_doubtful() {
        use Fitness::Doubtful;
        let places = "max_prepared_transactions";
        found(|it| it.prepared_max = 8, Doubtful, places, "8 places for 16");
        found(|it| it.prepared = 95, Doubtful, places, "5 of 100 places are left");
        found(|it| it.connections_used = 80, Doubtful, "max_connections", "room for 17");
        found(|it| it.strangers = vec!["old".into()], Doubtful, "privileges", "role old");
        found(
            |it| (it.standbys, it.synchronous_commit) = ("*".into(), "local".into()),
            Doubtful,
            "synchronous_commit",
            "it is local",
        );
        found(|it| it.statement_timeout = 500, Doubtful, "statement_timeout", "500 ms");
        found(|it| it.transaction_timeout = 999, Doubtful, "transaction_timeout", "999 ms");
        found(|it| it.idle_session_timeout = 9_000, Doubtful, "idle_session_timeout", "9000 ms");
        found(|it| it.now_ms = 11_011, Doubtful, "clock", "1001 ms ahead");
        found(|it| it.now_ms = 8_000, Doubtful, "clock", "1990 ms behind");
    }

    #[test]
    fn old_prepared_transactions_are_named_up_to_a_few() {
        let old = Old {
            gid: "by\nhand".into(),
            owner: "ops".into(),
            database: "shop".into(),
            age_s: 7_200,
        };
        let named = r"7 hold locks and keep VACUUM from its work ('by\nhand' in shop by ops, 7200 s, and 6 more)";
        let change = |it: &mut Seen| (it.old_count, it.old) = (7, vec![old]);
        found(change, Fitness::Doubtful, "old prepared transactions", named);
    }

    #[test]
    fn a_right_that_is_missing_is_named() {
        let rights = |list, look_up| Rights { user: "app".into(), list, look_up };
        assert_eq!(missing(&rights(true, true)), None);
        for (rights, named) in
            [(rights(false, true), "GRANT SELECT"), (rights(true, false), "GRANT EXECUTE")]
        {
            let finding = missing(&rights).expect(named);
            assert_eq!(finding.fitness, Fitness::Unfit);
            assert!(finding.detail.starts_with(named), "{}", finding.detail);
        }
    }

    #[test]
    fn a_pooler_answers_with_another_process_than_it_let_in_with() {
        assert_eq!(pooler(7, 7).fitness, Fitness::Fit);
        assert_eq!(pooler(7, 8).fitness, Fitness::Doubtful);
    }

    #[test]
    fn a_version_that_is_too_old_is_unfit() {
        let server = |number, version: &str| Server { number, version: version.into(), process: 1 };
        let old = version(&server(120_022, "12.22 (Debian)"));
        assert_eq!((old.fitness, old.subject), (Fitness::Unfit, "version"));
        assert!(old.detail.starts_with("PostgreSQL 12.22 cannot"), "{}", old.detail);
        assert_eq!(version(&server(130_000, "13.0")).fitness, Fitness::Fit);
    }
}
