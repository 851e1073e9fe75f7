//! What a transfer does at each party: the branches of its transaction.
//!
//! Every party books the transfer under its name. The wallet debits the customer, too, under the rule
//! that nobody gets below zero. A service has this in its own code; to a database it is told here.

use serde_json::{Value, json};
use unanimous_client::api::{BranchRequest, StatementRequest};

use super::party::{Engine, Kind};
use super::plan::{Role, Transfer};

/// How Redis names what it keeps.
pub(super) const ACCOUNT: &str = "account:";
pub(super) const ENTRY: &str = "entry:";

/// The branch of a transfer at one party.
pub(super) fn branch(role: Role, kind: Kind, transfer: &Transfer) -> BranchRequest {
    let (body, statements) = match kind {
        Kind::Service => (Some(json!(transfer)), None),
        Kind::Database(Engine::Postgres) => {
            (None, Some(statements(role, transfer, |number| format!("${number}"))))
        }
        Kind::Database(Engine::MariaDb) => {
            (None, Some(statements(role, transfer, |_| "?".to_owned())))
        }
        Kind::Database(Engine::Redis) => (Some(commands(role, transfer)), None),
    };
    BranchRequest { resource: role.as_str().to_owned(), participant: None, body, statements }
}

/// Statements with the placeholders of one dialect, by their numbers.
fn statements(
    role: Role,
    transfer: &Transfer,
    at: impl Fn(u32) -> String,
) -> Vec<StatementRequest> {
    let Transfer { transfer, customer, amount, .. } = transfer;
    let statement =
        |sql: String, params, expect_rows| StatementRequest { sql, params, expect_rows };
    let [one, two, three] = [1, 2, 3].map(at);
    let debit = statement(
        format!(
            "UPDATE account SET balance = balance - {one} WHERE id = {two} AND balance >= {three}"
        ),
        vec![json!(amount), json!(customer), json!(amount)],
        Some(1),
    );
    let entry = statement(
        format!("INSERT INTO entry (transfer, amount) VALUES ({one}, {two})"),
        vec![json!(transfer), json!(amount)],
        None,
    );
    match role {
        Role::Wallet => vec![debit, entry],
        Role::Ledger | Role::Audit | Role::Coordinator => vec![entry],
    }
}

fn commands(role: Role, transfer: &Transfer) -> Value {
    let Transfer { transfer, customer, amount, .. } = transfer;
    let entry = json!(["INCRBY", format!("{ENTRY}{transfer}"), amount]);
    let account = format!("{ACCOUNT}{customer}");
    match role {
        Role::Wallet => json!({
            "commands": [["DECRBY", account, amount], entry],
            "expect": [{"key": account, "at_least": 0}],
        }),
        Role::Ledger | Role::Audit | Role::Coordinator => json!({"commands": [entry]}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::plan::Plan;

    #[test]
    fn only_a_wallet_debits_and_each_party_books_in_its_own_dialect() {
        let transfer = &Plan::new(1, 1).transfers[0];
        let sql = |role, engine| {
            let branch = branch(role, Kind::Database(engine), transfer);
            branch.statements.expect("a database").into_iter().map(|it| it.sql).collect::<Vec<_>>()
        };
        assert_eq!(
            sql(Role::Wallet, Engine::Postgres),
            [
                "UPDATE account SET balance = balance - $1 WHERE id = $2 AND balance >= $3",
                "INSERT INTO entry (transfer, amount) VALUES ($1, $2)",
            ]
        );
        assert_eq!(
            sql(Role::Ledger, Engine::MariaDb),
            ["INSERT INTO entry (transfer, amount) VALUES (?, ?)"]
        );
        let audit = branch(Role::Audit, Kind::Database(Engine::Redis), transfer).body;
        let entry = json!(["INCRBY", "entry:transfer-0001", transfer.amount]);
        assert_eq!(audit, Some(json!({"commands": [entry]})));
    }
}
