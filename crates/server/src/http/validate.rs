//! What can be checked of a request before anything begins.

use std::collections::HashSet;

use serde_json::Value;
use unanimous_api::{
    BeginRequest, BranchRequest, Code, Problem, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX,
};
use unanimous_core::Opaque;
use unanimous_core::limits::{BRANCHES_MAX, NAME_LEN_MAX};

use super::Failure;
use crate::config::is_name;
use crate::resources::Resources;

/// Name, resource and work of each participant.
pub(super) type Branches = Vec<(String, String, Opaque)>;

/// The timeout of a request, within its bounds.
pub(super) fn timeout_ms(request: &BeginRequest) -> Result<u64, Failure> {
    let timeout_ms = request.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT);
    match (1..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
        true => Ok(timeout_ms),
        false => {
            let detail = format!("timeout_ms is {timeout_ms}, not within 1 to {TIMEOUT_MS_MAX}");
            Err(Failure::of(Problem::new(Code::OutOfBounds, detail).at("/timeout_ms")))
        }
    }
}

/// The branches of a request: known resources, and names of their own.
pub(super) fn branches(
    resources: &Resources,
    branches: Vec<BranchRequest>,
) -> Result<Branches, Failure> {
    if branches.len() > BRANCHES_MAX {
        let detail = format!("{} branches, at most {BRANCHES_MAX} are allowed", branches.len());
        return Err(Failure::of(Problem::new(Code::TooManyBranches, detail).at("/branches")));
    }
    let mut names = HashSet::new();
    let mut valid = Vec::with_capacity(branches.len());
    for (index, branch) in branches.into_iter().enumerate() {
        let at = |field: &str| format!("/branches/{index}/{field}");
        known(resources, &branch.resource, at("resource"))?;
        let name = branch.participant.unwrap_or_else(|| branch.resource.clone());
        participant(&name, at("participant"))?;
        if !names.insert(name.clone()) {
            let detail = format!("two branches have the participant name {name}");
            let problem = Problem::new(Code::DuplicateParticipant, detail).at(at("participant"));
            return Err(Failure::of(problem));
        }
        valid.push((name, branch.resource, work(branch.body.as_ref())));
    }
    Ok(valid)
}

/// A resource that is configured.
pub(super) fn known(resources: &Resources, name: &str, pointer: String) -> Result<(), Failure> {
    match resources.get(name) {
        Some(_) => Ok(()),
        None => {
            let known: Vec<&str> = resources.iter().map(|(name, _)| &**name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let detail = format!("no resource {name:?} is configured; configured: {known}");
            Err(Failure::of(Problem::new(Code::UnknownResource, detail).at(pointer)))
        }
    }
}

/// A name that a participant may have.
pub(super) fn participant(name: &str, pointer: String) -> Result<(), Failure> {
    match is_name(name) {
        true => Ok(()),
        false => {
            let detail = format!(
                "a participant's name has 1 to {NAME_LEN_MAX} letters, digits, dashes, dots and \
                 underscores"
            );
            Err(Failure::of(Problem::new(Code::OutOfBounds, detail).at(pointer)))
        }
    }
}

/// What a branch is asked to do, as its adapter reads it.
pub(super) fn work(body: Option<&Value>) -> Opaque {
    body.map_or_else(Opaque::default, |body| {
        Opaque::new(&serde_json::to_vec(body).expect("a JSON value is always JSON"))
    })
}
