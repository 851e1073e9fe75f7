//! The configured resources by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use unanimous_participants::{Observer, OpenError, Resource, Settings};

use crate::config::{Config, is_name};
use crate::invariants::config::refuse_unreadable;

/// The configured resources. Fixed while the process runs.
#[derive(Clone, Default)]
pub struct Resources {
    by_name: BTreeMap<Arc<str>, Arc<dyn Resource>>,
}

impl Resources {
    /// The resources that are configured, fit for what is asked of them. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`OpenError`] names the resource and what to change.
    pub fn open(config: &Config, observer: &Arc<dyn Observer>) -> Result<Self, OpenError> {
        let mut resources = Self::default();
        for (name, resource) in &config.resources {
            let mut settings = Settings {
                phases: resource.phases,
                password: resource.password.clone(),
                tls: resource.tls.clone(),
                signing: resource.signing.clone(),
                ..Settings::default()
            };
            if let Some(calls_max) = resource.calls_max {
                settings.first_phase_calls_max = calls_max;
                settings.second_phase_calls_max = calls_max;
            }
            let observer = Arc::clone(observer);
            let opened = unanimous_participants::open(name, &resource.url, &settings, observer)?;
            resources = resources.with(name, opened);
        }
        refuse_unreadable(&config.invariants, &resources)?;
        Ok(resources)
    }

    /// Adds a resource; a later one of the same name replaces it.
    #[must_use]
    pub fn with(mut self, name: &str, resource: Arc<dyn Resource>) -> Self {
        self.by_name.insert(Arc::from(name), resource);
        self
    }

    /// These and others, no two of the same name.
    ///
    /// # Errors
    ///
    /// [`OpenError`] names one that is in both, or whose name cannot be one.
    pub(crate) fn and(mut self, others: Self) -> Result<Self, OpenError> {
        for (name, resource) in others.by_name {
            let problem = match (is_name(&name), self.by_name.contains_key(&name)) {
                (true, false) => {
                    self.by_name.insert(name, resource);
                    continue;
                }
                (false, _) => "use letters, digits, dashes, dots and underscores in its name",
                (true, true) => "it is configured, and the program brings one: rename one of them",
            };
            let (resource, problem) = (name.to_string(), problem.to_owned());
            return Err(OpenError { resource, problem });
        }
        Ok(self)
    }

    /// The resource of that name, with the name as it is shared.
    pub fn get(&self, name: &str) -> Option<(&Arc<str>, &Arc<dyn Resource>)> {
        self.by_name.get_key_value(name)
    }

    /// Every resource, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<dyn Resource>)> {
        self.by_name.iter()
    }

    /// What kind a resource is; `unknown` if it is not configured any more.
    pub fn kind_of(&self, name: &str) -> &'static str {
        self.by_name.get(name).map_or("unknown", |resource| resource.kind())
    }
}
