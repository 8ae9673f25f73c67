//! The ranks of a job by what they share: data, tensor and pipeline groups.

use crate::{
    comm::{Comm, HostComm},
    dry::{Counter, Dry, Traffic},
    error::{CommError, Result},
    launch::World,
    link::{self, Alone, Link},
    nccl::{Nccl, NcclComm},
};
use device::Device;
use std::{ops::Range, sync::Arc};

/// How many ways a job is split, in each of three manners. Their product is the number of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Ranks with the same weights and other data.
    pub dp: usize,
    /// Ranks with the same data and other parts of every block's matrices.
    pub tp: usize,
    /// Ranks with other blocks.
    pub pp: usize,
}

impl Shape {
    /// One rank.
    pub const ONE: Shape = Shape { dp: 1, tp: 1, pp: 1 };

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.dp * self.tp * self.pp
    }

    /// Where rank `rank` stands in the three manners, as one number each. Tensor groups, which talk most, are neighbours.
    pub fn place(&self, rank: usize) -> Shape {
        let Shape { dp, tp, .. } = *self;
        Shape { tp: rank % tp, dp: rank / tp % dp, pp: rank / (tp * dp) }
    }

    fn rank(&self, place: Shape) -> usize {
        (place.pp * self.dp + place.dp) * self.tp + place.tp
    }
}

/// Ranks that share something: bytes go over the link, buffers over the engine for the device.
#[derive(Clone)]
pub struct Group {
    /// For numbers and bytes in host memory.
    pub link: Arc<dyn Link>,
    /// For device buffers.
    pub comm: Arc<dyn Comm>,
    counter: Counter,
}

impl Group {
    /// This process alone.
    pub fn alone() -> Group {
        Group::host(Arc::new(Alone))
    }

    fn host(link: Arc<dyn Link>) -> Group {
        Group { comm: Arc::new(HostComm(link.clone())), link, counter: Counter::default() }
    }

    fn dry(rank: usize, size: usize) -> Group {
        let counter = Counter::default();
        let dry = Arc::new(Dry { rank, size, counter: counter.clone() });
        Group { link: dry.clone(), comm: dry, counter }
    }

    /// This process's number in the group.
    pub fn rank(&self) -> usize {
        self.link.rank()
    }

    /// Ranks in the group.
    pub fn size(&self) -> usize {
        self.link.size()
    }

    /// This rank's share of `n` items: consecutive ones, as many as the others' or one more or less.
    pub fn share(&self, n: usize) -> Range<usize> {
        let (rank, size) = (self.rank(), self.size());
        n * rank / size..n * (rank + 1) / size
    }

    /// Numbers become their sums over the ranks, in the order of ranks.
    ///
    /// # Errors
    /// When a rank has ended.
    pub fn sum(&self, x: &mut [f64]) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        link::sum_f64(&*self.link, x)
    }

    /// All ranks' items, in the order of ranks.
    ///
    /// # Errors
    /// When a rank has ended.
    pub fn gather<T: bytemuck::Pod>(&self, own: &[T]) -> Result<Vec<T>> {
        if self.size() == 1 {
            return Ok(own.to_vec());
        }
        let parts = link::gather_bytes(&*self.link, bytemuck::cast_slice(own))?;
        let items = parts.iter().flat_map(|p| p.chunks_exact(size_of::<T>()));
        Ok(items.map(bytemuck::pod_read_unaligned).collect())
    }

    /// All ranks' bytes, in the order of ranks.
    ///
    /// # Errors
    /// When a rank has ended.
    pub fn gather_bytes(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        link::gather_bytes(&*self.link, own)
    }

    /// What a dry run's collectives would have sent so far.
    pub fn traffic(&self) -> Traffic {
        *self.counter.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A rank's place in the job and its groups.
#[derive(Clone)]
pub struct Mesh {
    /// The split.
    pub shape: Shape,
    /// This rank's place in it.
    pub place: Shape,
    /// All ranks.
    pub world: Group,
    /// The ranks with the same weights.
    pub dp: Group,
    /// The ranks with the same data and blocks.
    pub tp: Group,
    /// The ranks with the other blocks for the same data, in the order of blocks.
    pub pp: Group,
    /// Ranks on this machine, which share its cores.
    pub local_size: usize,
}

/// Which engine carries device buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Host memory, over the job's link.
    Host,
    /// NCCL, on CUDA devices.
    Nccl,
}

impl Mesh {
    /// One process.
    pub fn alone() -> Mesh {
        let group = Group::alone;
        let (world, dp, tp, pp) = (group(), group(), group(), group());
        Mesh { shape: Shape::ONE, place: Shape::ONE.place(0), world, dp, tp, pp, local_size: 1 }
    }

    /// Splits the job's ranks; every rank calls it.
    ///
    /// # Errors
    /// When the shape does not fit the number of ranks, or the engine cannot be set up.
    pub fn new(world: &World, shape: Shape, device: &Device, carrier: Carrier) -> Result<Mesh> {
        let (link, size) = (&world.link, world.link.size());
        if shape.size() != size {
            let Shape { dp, tp, pp } = shape;
            let problem =
                format!("dp {dp} * tp {tp} * pp {pp} are {} ranks, the job has {size}", shape.size());
            return Err(CommError::new("start", problem));
        }
        if size == 1 {
            return Ok(Mesh::alone());
        }
        let place = shape.place(link.rank());
        let nccl = if carrier == Carrier::Nccl { Some(Arc::new(Nccl::load()?)) } else { None };
        let group = |n: usize, at: &dyn Fn(usize) -> Shape| -> Result<Group> {
            let members: Vec<usize> = (0..n).map(|i| shape.rank(at(i))).collect();
            let mut group = Group::host(link.split(&members)?);
            if let (Some(nccl), true) = (&nccl, n > 1) {
                group.comm = Arc::new(NcclComm::new(nccl.clone(), device, &*group.link)?);
            }
            Ok(group)
        };
        Ok(Mesh {
            shape,
            place,
            world: Group::host(link.clone()),
            dp: group(shape.dp, &|dp| Shape { dp, ..place })?,
            tp: group(shape.tp, &|tp| Shape { tp, ..place })?,
            pp: group(shape.pp, &|pp| Shape { pp, ..place })?,
            local_size: world.local_size,
        })
    }

    /// One rank of a job that is not there, for dry runs: collectives are counted, and gathered data are this rank's own.
    pub fn dry(shape: Shape, rank: usize) -> Mesh {
        let place = shape.place(rank);
        Mesh {
            shape,
            place,
            world: Group::dry(rank, shape.size()),
            dp: Group::dry(place.dp, shape.dp),
            tp: Group::dry(place.tp, shape.tp),
            pp: Group::dry(place.pp, shape.pp),
            local_size: 1,
        }
    }

    /// This process's number in the job.
    pub fn rank(&self) -> usize {
        self.world.rank()
    }

    /// Ranks in the job.
    pub fn size(&self) -> usize {
        self.world.size()
    }

    /// Whether this rank writes the job's files.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }
}
