//! Whether a server can take part, and what to change if not. Nothing is changed in it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;

use super::session::{Broken, Product, Session, Texts};
use super::{Inner, fence, tables};
use crate::finding::Finding;

/// Older branches of anybody's are worth a look.
const OLD_BRANCH: Duration = Duration::from_secs(300);

/// A difference of clocks that is worth a look.
const CLOCKS_APART_MS: i64 = 1_000;

/// Names of tables that one line can take.
const NAMED_TABLES_MAX: usize = 5;

type Found = Result<Vec<Finding>, Broken>;

pub(super) async fn examine(inner: &Inner, connections: usize, patience: Duration) -> Vec<Finding> {
    let look = async {
        let mut lent = match inner.second_phase.lend().await {
            Ok(lent) => lent,
            Err(why) => return vec![Finding::unfit("connection", why.to_string())],
        };
        match look(&mut lent.session, connections).await {
            Ok(findings) => {
                inner.second_phase.give_back(lent.into_session());
                findings
            }
            Err(Broken(seen)) => vec![Finding::unfit("connection", format!("it broke: {seen}"))],
        }
    };
    let late = || format!("no answer within {} ms", patience.as_millis());
    timeout(patience, look).await.unwrap_or_else(|_| vec![Finding::unfit("connection", late())])
}

async fn look(session: &mut Session, connections: usize) -> Found {
    let mut findings = vec![version(session).await?];
    findings.push(writes(session).await?);
    findings.push(durability(session).await?);
    findings.extend(recovery(session).await?);
    findings.extend(replication(session).await?);
    findings.push(room(session, connections).await?);
    findings.push(proofs(session).await?);
    findings.extend(engines(session).await?);
    findings.extend(prepared(session).await?);
    findings.push(clock(session).await?);
    Ok(findings)
}

/// A text that the server knows; empty if it does not tell.
async fn text(session: &mut Session, sql: &str) -> Result<String, Broken> {
    Ok(session.first(sql).await?.ok().flatten().unwrap_or_default())
}

/// A variable of the server; empty if it has none of that name.
async fn variable(session: &mut Session, name: &str) -> Result<String, Broken> {
    let rows = session.rows(&format!("SHOW GLOBAL VARIABLES LIKE '{name}'")).await?;
    let value = |rows: Vec<Texts>| rows.into_iter().next()?.into_iter().nth(1)?;
    let value = rows.ok().and_then(value).unwrap_or_default();
    Ok(String::from_utf8_lossy(&value).into_owned())
}

async fn version(session: &mut Session) -> Result<Finding, Broken> {
    let version = text(session, "SELECT VERSION()").await?;
    Ok(judged(session.product, &version))
}

fn judged(product: Product, version: &str) -> Finding {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|it| it.parse().ok());
    let mut number = || numbers.next().unwrap_or(0);
    let number: (u32, u32, u32) = (number(), number(), number());
    let (oldest, wanted) = match product {
        Product::MariaDb => ((10, 5, 2), "MariaDB 10.5.2 or later"),
        Product::MySql => ((8, 0, 0), "MySQL 8 or later"),
    };
    if number < oldest {
        let why = "it loses prepared branches with their connection";
        return Finding::unfit("version", format!("{version}: {why}; use {wanted}"));
    }
    if product == Product::MySql && number < (8, 0, 29) {
        let why = "prepared branches stay tied to their connection; 8.0.29 or later is better";
        return Finding::doubtful("version", format!("{version}: {why}"));
    }
    Finding::fit("version", version)
}

async fn writes(session: &mut Session) -> Result<Finding, Broken> {
    Ok(match &*variable(session, "read_only").await? {
        "OFF" | "0" => Finding::fit("read_only", "the server takes writes"),
        _ => Finding::unfit(
            "read_only",
            "the server takes no writes: name the primary in the resource's url, or set read_only=0",
        ),
    })
}

async fn durability(session: &mut Session) -> Result<Finding, Broken> {
    let name = "innodb_flush_log_at_trx_commit";
    Ok(match &*variable(session, name).await? {
        "1" => Finding::fit(name, "a vote is on disk before it is told"),
        other => Finding::unfit(
            name,
            format!("it is {other}: a power cut takes votes and commits back; set it to 1"),
        ),
    })
}

/// MariaDB from 10.11.10 on maps its log into memory to recover from it, and writes it past the page
/// cache. Seen to recover wrongly, and only with the map; why is not known. Nobody else has the variable.
async fn recovery(session: &mut Session) -> Found {
    let name = "innodb_log_file_mmap";
    let is_mapped = variable(session, name).await? == "ON";
    if !is_mapped || variable(session, "innodb_log_file_buffering").await? == "ON" {
        return Ok(Vec::new());
    }
    let why = "a server that is killed can recover wrongly, and lose commits that it acknowledged: start \
               it with innodb_log_file_mmap=OFF";
    Ok(vec![Finding::doubtful(name, why)])
}

async fn replication(session: &mut Session) -> Found {
    let mut findings = Vec::new();
    if variable(session, "wsrep_on").await? == "ON" {
        let why = "Galera does not replicate XA: name a server outside of a cluster";
        findings.push(Finding::unfit("wsrep_on", why));
    }
    if variable(session, "log_bin").await? != "ON" {
        return Ok(findings);
    }
    if variable(session, "sync_binlog").await? != "1" {
        let why = "a power cut can leave the binary log without branches that are prepared; set \
                   sync_binlog=1";
        findings.push(Finding::doubtful("sync_binlog", why));
    }
    let why = match session.product {
        Product::MariaDb => {
            "replicas apply a branch when it is prepared, and can stop or differ after a rollback \
             (MDEV-32020): do not fail over to one while branches are in doubt"
        }
        Product::MySql => {
            "a replica that is promoted may lack prepared branches: do not fail over while \
             branches are in doubt"
        }
    };
    findings.push(Finding::doubtful("log_bin", why));
    Ok(findings)
}

async fn room(session: &mut Session, connections: usize) -> Result<Finding, Broken> {
    // Of the first phase, waiting for a decision, of the second phase.
    let wanted = connections * 2 + connections.div_ceil(2);
    let most = variable(session, "max_connections").await?;
    Ok(match most.parse::<usize>() {
        Ok(most) if most >= wanted => {
            Finding::fit("max_connections", format!("{most}; this resource uses up to {wanted}"))
        }
        Ok(_) | Err(_) => Finding::unfit(
            "max_connections",
            format!(
                "{most}, and this resource uses up to {wanted}: raise it, or lower connections in \
                 the resource's url"
            ),
        ),
    })
}

async fn proofs(session: &mut Session) -> Result<Finding, Broken> {
    let subject = "unanimous_fence";
    let engine = text(
        session,
        "SELECT engine FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND table_name = 'unanimous_fence'",
    );
    Ok(match &*engine.await? {
        "InnoDB" => Finding::fit(subject, "the table that proves commits is there"),
        "" => Finding::doubtful(
            subject,
            format!(
                "the table that proves commits is not there: the first branch makes it if the user \
                 may; else run {}",
                fence::TABLE
            ),
        ),
        engine => Finding::unfit(
            subject,
            format!("its engine is {engine}: run ALTER TABLE unanimous_fence ENGINE=InnoDB"),
        ),
    })
}

async fn engines(session: &mut Session) -> Found {
    let sql = format!("{} AND t.table_schema = DATABASE()", tables::LIST);
    let rows = session.rows(&sql).await?.unwrap_or_default();
    let name = |row: Vec<Option<Vec<u8>>>| row.into_iter().nth(1)?;
    let names: Vec<String> = rows
        .into_iter()
        .filter_map(name)
        .map(|it| String::from_utf8_lossy(&it).into_owned())
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let shown = names[..names.len().min(NAMED_TABLES_MAX)].join(", ");
    let detail = format!(
        "{} tables cannot be rolled back, and branches that name them are refused; triggers and \
         procedures must not write to them either: {shown}; convert them to InnoDB",
        names.len()
    );
    Ok(vec![Finding::doubtful("engine", detail)])
}

async fn prepared(session: &mut Session) -> Found {
    let rows = match session.rows("XA RECOVER").await? {
        Ok(rows) => rows,
        Err(refused) => {
            let detail = format!(
                "{refused}; what is in doubt cannot be listed: GRANT XA_RECOVER_ADMIN ON *.* TO the \
                 resource's user"
            );
            return Ok(vec![Finding::unfit("XA RECOVER", detail)]);
        }
    };
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = 0 \
         AND trx_started < NOW() - INTERVAL {} SECOND",
        OLD_BRANCH.as_secs()
    );
    let old = text(session, &sql).await?;
    Ok(vec![match &*old {
        "" | "0" => Finding::fit("XA RECOVER", format!("{} branches are prepared", rows.len())),
        old => Finding::doubtful(
            "XA RECOVER",
            format!(
                "{old} branches have been prepared for more than {} s and hold their locks: look at \
                 XA RECOVER",
                OLD_BRANCH.as_secs()
            ),
        ),
    }])
}

async fn clock(session: &mut Session) -> Result<Finding, Broken> {
    let theirs = text(session, "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)").await?;
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
    let apart = theirs.parse::<i64>().map_or(0, |theirs| theirs - ours);
    Ok(match apart.abs() < CLOCKS_APART_MS {
        true => Finding::fit("clock", "as here"),
        false => Finding::doubtful("clock", format!("{apart} ms from the clock here: set both")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Fitness;

    #[test]
    fn versions_that_lose_prepared_branches_are_unfit() {
        for (product, version, fitness) in [
            (Product::MariaDb, "10.11.19-MariaDB-0+deb12u1", Fitness::Fit),
            (Product::MariaDb, "10.4.1-MariaDB", Fitness::Unfit),
            (Product::MariaDb, "11.4.2-MariaDB", Fitness::Fit),
            (Product::MySql, "8.4.3", Fitness::Fit),
            (Product::MySql, "8.0.28", Fitness::Doubtful),
            (Product::MySql, "5.7.44-log", Fitness::Unfit),
        ] {
            assert_eq!(judged(product, version).fitness, fitness, "{version}");
        }
    }
}
