//! The processes of a scenario: its services, each with a file of its own, and a coordinator that knows
//! them as resources.

use std::path::{Path, PathBuf};

use super::child::{Ports, Process};
use super::plan::Role;
use super::{coordinator_arguments, unwritable};
use crate::exit::Failure;

/// Everybody in a scenario.
pub(super) struct Stage {
    pub(super) coordinator: Process,
    pub(super) services: Vec<Service>,
}

/// One service, and the file with what it has done.
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) process: Process,
    pub(super) file: PathBuf,
}

impl Stage {
    /// Starts this program once for each service, as `command NAME --listen … --data …` with the arguments
    /// that come with the name; and then the coordinator, whose URL `services` is given.
    pub(super) async fn start(
        command: &str,
        services: impl FnOnce(&str) -> Vec<(&'static str, Vec<String>)>,
        folder: &Path,
        ports: &mut Ports,
    ) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(unwritable(folder))?;
        let coordinator = ports.take().await?;
        let mut started = Vec::new();
        let mut resources = String::new();
        for (name, more) in services(&format!("http://{coordinator}")) {
            let address = ports.take().await?;
            let file = folder.join(format!("{name}.sqlite"));
            let listen = ["--listen".to_owned(), address.to_string()];
            let data = ["--data".to_owned(), file.display().to_string()];
            let arguments = [command.to_owned(), name.to_owned()].into_iter().chain(listen);
            let arguments = arguments.chain(data).chain(more);
            let process = Process::start(name, address, arguments.collect(), folder).await?;
            resources += &format!("[resources.{name}]\nurl = \"http://{address}\"\n");
            started.push(Service { name, process, file });
        }
        let config = folder.join("unanimous.toml");
        std::fs::write(&config, resources).map_err(unwritable(folder))?;
        let arguments = coordinator_arguments(coordinator, &config, folder);
        let name = Role::Coordinator.as_str();
        let coordinator = Process::start(name, coordinator, arguments, folder).await?;
        Ok(Self { coordinator, services: started })
    }

    /// Where the coordinator takes requests.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.coordinator.address)
    }

    /// The service of that name.
    pub(super) fn service(&mut self, name: &str) -> &mut Service {
        let found = self.services.iter_mut().find(|it| it.name == name);
        found.expect("there is one of each")
    }

    /// Ends everybody: what they have done is in their files.
    pub(super) async fn stop(&mut self) {
        self.coordinator.kill().await;
        for service in &mut self.services {
            service.process.kill().await;
        }
    }
}
