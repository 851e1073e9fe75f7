//! One coordinator, two services that never crash, and a witness.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::coordinator::Setup;
use crate::http::Http;
use crate::place::Folder;
use crate::service::Service;
use crate::witness::Witness;

/// The services by name.
pub(crate) const SERVICES: [&str; 2] = ["alpha", "beta"];

/// Everything around a coordinator that lives on when it dies.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) http: Http,
    pub(crate) services: [Arc<Service>; 2],
    pub(crate) witness: Arc<Witness>,
    pub(crate) folder: Folder,
    _serving: JoinSet<()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::and(|setup| setup).await
    }

    /// The same with a coordinator that is set up otherwise.
    pub(crate) async fn and(otherwise: impl FnOnce(Setup) -> Setup) -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into(), otherwise).await
    }

    /// The same with services at this address.
    pub(crate) async fn at(place: IpAddr, otherwise: impl FnOnce(Setup) -> Setup) -> Self {
        let folder = Folder::new();
        let witness = Arc::new(Witness::default());
        let services = SERVICES.map(|name| Service::new(name, Arc::clone(&witness)));
        let mut serving = JoinSet::new();
        let mut resources = Vec::new();
        for service in &services {
            let (address, serve) = Arc::clone(service).serve(place).await;
            serving.spawn(serve);
            resources.push((service.name, address));
        }
        let setup = otherwise(Setup::new(folder.path(), &resources));
        for service in &services {
            serving.spawn(Arc::clone(service).inquire(setup.server()));
        }
        let http = Http::new(&setup.server());
        Self { setup, http, services, witness, folder, _serving: serving }
    }

    /// The service of this name.
    pub(crate) fn service(&self, name: &str) -> &Service {
        let found = self.services.iter().find(|service| service.name == name);
        found.expect("tests name their own services")
    }

    /// Whether so many outcomes were told.
    pub(crate) fn told_at_least(&self, wanted: usize) -> Result<(), String> {
        match self.witness.count() {
            count if count >= wanted => Ok(()),
            count => Err(format!("{count} outcomes were told, not {wanted}")),
        }
    }
}
