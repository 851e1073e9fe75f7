//! The configured resources by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use unanimous_participants::Resource;

/// The configured resources. Fixed while the process runs.
#[derive(Clone, Default)]
pub struct Resources {
    by_name: BTreeMap<Arc<str>, Arc<dyn Resource>>,
}

impl Resources {
    /// Adds a resource; a later one of the same name replaces it.
    #[must_use]
    pub fn with(mut self, name: &str, resource: Arc<dyn Resource>) -> Self {
        self.by_name.insert(Arc::from(name), resource);
        self
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
