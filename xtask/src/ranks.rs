//! `--dp`, `--engine`: how many processes train, and what connects them.

use crate::fail;
use device::Device;
use parallel::{Carrier, CommError, Engine, Mesh, Nccl, Ranks, Role, World};
use trainer::ranks::ParallelSection;

/// The options.
#[derive(clap::Args)]
pub struct Choice {
    /// Data parallelism: so many ranks, each with all weights and its share of every batch (parallel.dp) [default: 1, or as many as
    /// MPI started].
    #[arg(long, value_name = "N")]
    dp: Option<usize>,
    /// What connects the ranks. local: processes that this one starts; mpi: those that mpirun started; nccl: either of them, with
    /// NCCL between their GPUs; auto: mpi under mpirun, else local, and nccl where it is installed and the ranks have GPUs.
    #[arg(long, value_parser = ["auto", "local", "mpi", "nccl"], default_value = "auto")]
    engine: String,
}

impl Choice {
    /// Puts the options over the settings.
    pub fn overlay(&self, section: &mut ParallelSection) {
        let started = (self.engine != "local").then(parallel::started_by_mpi).flatten();
        section.dp = self.dp.or(started).unwrap_or(section.dp);
    }

    /// What this process is: a rank, or the one that starts the ranks.
    pub fn role(&self, section: &ParallelSection) -> Result<Role, CommError> {
        let engine = match self.engine.as_str() {
            "local" => Engine::Local,
            "mpi" => Engine::Mpi,
            _ => Engine::Auto,
        };
        parallel::role(section.shape().size(), engine)
    }

    /// The ranks' groups; `gpu` = the device is a real GPU.
    pub fn mesh(
        &self,
        world: &World,
        section: &ParallelSection,
        device: &Device,
        gpu: bool,
    ) -> Result<Mesh, CommError> {
        let installed = || gpu && world.link.size() > 1 && Nccl::load().is_ok();
        let nccl = self.engine == "nccl" || (self.engine == "auto" && installed());
        Mesh::new(world, section.shape(), device, if nccl { Carrier::Nccl } else { Carrier::Host })
    }
}

/// Starts the ranks and waits for them; gives the exit code.
pub fn start(size: usize) -> i32 {
    let ranks = match Ranks::start(size) {
        Ok(ranks) => ranks,
        Err(e) => return fail(e),
    };
    let _ = ctrlc::set_handler(ranks.stopper());
    ranks.wait()
}
