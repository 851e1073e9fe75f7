//! Compares the journal with what a resource holds: what should be there and is not, and the other way
//! round.
//!
//! While transactions run, both change all the time; so a disagreement counts only if two comparisons
//! some time apart both find it, which no call that is under way outlasts.

use std::collections::BTreeSet;

use unanimous_api::{
    BranchInDoubt, CheckAnswer, CheckFinding, Disagreement, ResourceCheck, StatusWord,
};
use unanimous_journal::JournalError;

use crate::driver::Coordinator;
use crate::limits::{CHECK_PAUSE, LIST_WAIT};
use crate::orphans::{ended, ours};

/// A disagreement, without what it says to people.
type Found = BTreeSet<(String, Disagreement)>;

/// What came of one comparison.
enum Compared {
    Findings { held: u64, found: Found },
    AsksItself,
    Unanswered(String),
}

/// Compares twice; `None` if there is no such resource.
///
/// # Errors
///
/// [`JournalError::Failed`] if the journal cannot be read.
pub(crate) async fn check(
    coordinator: &Coordinator,
    name: &str,
) -> Result<Option<ResourceCheck>, JournalError> {
    if coordinator.resources().get(name).is_none() {
        return Ok(None);
    }
    let mut last = compare(coordinator, name).await?;
    if let Compared::Findings { found, .. } = &last
        && !found.is_empty()
    {
        let first = found.clone();
        tokio::time::sleep(CHECK_PAUSE).await;
        last = compare(coordinator, name).await?;
        if let Compared::Findings { found, .. } = &mut last {
            found.retain(|finding| first.contains(finding));
        }
    }
    let (answer, held, found, error) = match last {
        Compared::Findings { held, found } => (CheckAnswer::Compared, held, found, None),
        Compared::AsksItself => (CheckAnswer::AsksItself, 0, Found::new(), None),
        Compared::Unanswered(why) => (CheckAnswer::Unanswered, 0, Found::new(), Some(why)),
    };
    let findings = found.into_iter().map(|(branch, finding)| told(coordinator, branch, finding));
    let findings = findings.collect();
    Ok(Some(ResourceCheck { name: name.to_owned(), answer, held, findings, error }))
}

async fn compare(coordinator: &Coordinator, name: &str) -> Result<Compared, JournalError> {
    let Some((_, resource)) = coordinator.resources().get(name) else {
        return Ok(Compared::AsksItself);
    };
    let before = prepared(coordinator.in_doubt(name).await?);
    let held = match resource.in_doubt(LIST_WAIT).await {
        Ok(Some(held)) => held,
        Ok(None) => return Ok(Compared::AsksItself),
        Err(why) => return Ok(Compared::Unanswered(why)),
    };
    let after = prepared(coordinator.in_doubt(name).await?);
    let held: BTreeSet<String> = held
        .into_iter()
        .map(|held| held.name)
        .filter(|text| ours(coordinator, text).is_some())
        .collect();
    let mut found = Found::new();
    for branch in before.intersection(&after).filter(|branch| !held.contains(*branch)) {
        found.insert((branch.clone(), Disagreement::Missing));
    }
    for text in &held {
        let Some(branch) = ours(coordinator, text) else { continue };
        match coordinator.show(branch.txn, None).await? {
            None => found.insert((text.clone(), Disagreement::Unknown)),
            Some(view) if ended(&view).is_some() => {
                found.insert((text.clone(), Disagreement::Ended))
            }
            Some(_) => false,
        };
    }
    Ok(Compared::Findings { held: held.len() as u64, found })
}

/// The branches that a resource has to hold: they have voted yes, and have not said that they are
/// committed. What is to be rolled back need not be there.
fn prepared(branches: Vec<BranchInDoubt>) -> BTreeSet<String> {
    let wanted = |branch: &BranchInDoubt| match branch.status {
        StatusWord::Preparing | StatusWord::Prepared | StatusWord::Committing => true,
        StatusWord::Initiated
        | StatusWord::Committed
        | StatusWord::Aborting
        | StatusWord::Aborted
        | StatusWord::Running
        | StatusWord::Compensating
        | StatusWord::Completed
        | StatusWord::Compensated
        | StatusWord::NeedsAttention => false,
    };
    branches.into_iter().filter(wanted).map(|branch| branch.branch).collect()
}

fn told(coordinator: &Coordinator, branch: String, finding: Disagreement) -> CheckFinding {
    let detail = match finding {
        Disagreement::Missing => {
            "prepared, and not held: it was ended by hand, or lost with the resource's data"
        }
        Disagreement::Unknown => {
            "held, and nobody knows its transaction: it is rolled back after the grace time"
        }
        Disagreement::Ended => "held, and its transaction has ended: see txn show, end it by hand",
    };
    let transaction = ours(coordinator, &branch).map(|name| name.txn.to_string());
    CheckFinding {
        transaction: transaction.unwrap_or_default(),
        branch,
        finding,
        detail: detail.to_owned(),
    }
}
