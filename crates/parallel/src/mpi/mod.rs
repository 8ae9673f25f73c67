//! MPI between processes that its starter (`mpirun`, `mpiexec`, `srun`) started.
//!
//! MPI moves the bytes; sums are formed here, in the order of ranks: MPI_Allreduce is free to choose another order for another
//! length or number of ranks, and the results would depend on the implementation.

#[cfg(unix)]
mod abi;

use crate::{error::Result, link::Link};
use std::{env, sync::Arc};

/// What an MPI starter says of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Started {
    pub rank: usize,
    pub size: usize,
    pub local_rank: usize,
    pub local_size: usize,
    /// Whether the starter is Open MPI's.
    pub open_mpi: bool,
}

/// Rank, size, rank on this machine and number on this machine, as the starters of the two families name them.
const OPEN_MPI: [&str; 4] = [
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
];
const MPICH: [&str; 4] = ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"];

/// None when no starter of a known family has started this process.
pub(crate) fn started() -> Option<Started> {
    let number = |name: &str| env::var(name).ok()?.parse::<usize>().ok();
    [OPEN_MPI, MPICH].iter().find_map(|names| {
        let (rank, size) = (number(names[0])?, number(names[1])?);
        let (local_rank, local_size) = (number(names[2]).unwrap_or(0), number(names[3]).unwrap_or(1));
        Some(Started { rank, size, local_rank, local_size, open_mpi: *names == OPEN_MPI })
    })
}

/// Connects this process to those started with it.
///
/// # Errors
/// When MPI's library is not found, is of another family than the starter, or fails.
#[cfg(unix)]
pub(crate) fn connect(started: &Started) -> Result<Arc<dyn Link>> {
    world::connect(started)
}

#[cfg(not(unix))]
pub(crate) fn connect(_: &Started) -> Result<Arc<dyn Link>> {
    let problem = "is supported on Linux and macOS; leave --engine at local";
    Err(crate::error::CommError::new("MPI", problem))
}

#[cfg(unix)]
mod world {
    use super::{
        Started,
        abi::{Handle, Mpi, Status},
    };
    use crate::{
        error::{CommError, Result},
        link::Link,
    };
    use std::{
        ffi::c_int,
        sync::{Arc, Mutex},
    };

    /// MPI between its initialisation and its end.
    struct Session {
        mpi: Mpi,
        /// Sends on their way, with the bytes that MPI reads until they are done. The lock also makes calls come one at a time, which
        /// is what was asked of MPI (MPI_THREAD_SERIALIZED).
        sends: Mutex<Vec<(Handle, Box<[u8]>)>>,
    }

    impl Drop for Session {
        fn drop(&mut self) {
            let mut sends = self.sends.lock().unwrap_or_else(|e| e.into_inner());
            while !sends.is_empty() {
                if reap(&self.mpi, &mut sends).is_err() {
                    return;
                }
            }
            // SAFETY: nothing of ours is under way.
            let _ = unsafe { self.mpi.finalize() };
        }
    }

    /// A communicator.
    struct Group {
        session: Arc<Session>,
        comm: Handle,
        rank: usize,
        size: usize,
    }

    pub(super) fn connect(started: &Started) -> Result<Arc<dyn Link>> {
        let mpi = Mpi::load(started.open_mpi)?;
        mpi.start()?;
        let (version, world) = (mpi.version.clone(), mpi.world);
        let session = Arc::new(Session { mpi, sends: Mutex::default() });
        let group = Group::new(session, world)?;
        if (group.rank, group.size) != (started.rank, started.size) {
            let problem = format!(
                "{version} sees rank {} of {}, the starter said rank {} of {}: they are not of one installation",
                group.rank, group.size, started.rank, started.size
            );
            return Err(CommError::new("MPI", problem));
        }
        Ok(Arc::new(group))
    }

    impl Group {
        fn new(session: Arc<Session>, comm: Handle) -> Result<Group> {
            let (mut rank, mut size) = (0, 0);
            // SAFETY: the communicator is live; the pointers are to locals.
            unsafe {
                session.mpi.comm_rank(comm, &mut rank)?;
                session.mpi.comm_size(comm, &mut size)?;
            }
            Ok(Group { session, comm, rank: rank as usize, size: size as usize })
        }

        /// Calls MPI, alone.
        fn call<T>(&self, f: impl FnOnce(&Mpi, &mut Vec<(Handle, Box<[u8]>)>) -> Result<T>) -> Result<T> {
            let mut sends = self.session.sends.lock().unwrap_or_else(|e| e.into_inner());
            reap(&self.session.mpi, &mut sends)?;
            f(&self.session.mpi, &mut sends)
        }
    }

    /// Lets go of the sends that are done.
    fn reap(mpi: &Mpi, sends: &mut Vec<(Handle, Box<[u8]>)>) -> Result<()> {
        let mut error = None;
        sends.retain_mut(|(request, _)| {
            let (mut done, mut status) = (0, Status([0; 64]));
            // SAFETY: the request is live; the pointers are to locals.
            if let Err(e) = unsafe { mpi.test(request, &mut done, &mut status) } {
                error = Some(e);
                return false;
            }
            done == 0
        });
        error.map_or(Ok(()), Err)
    }

    /// A length as MPI counts.
    fn count(call: &str, bytes: usize) -> Result<c_int> {
        c_int::try_from(bytes)
            .map_err(|_| CommError::new(call, format!("{bytes} bytes at once are more than MPI counts")))
    }

    impl Link for Group {
        fn rank(&self) -> usize {
            self.rank
        }

        fn size(&self) -> usize {
            self.size
        }

        fn name(&self) -> &'static str {
            "mpi"
        }

        fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
            let (data, n): (Box<[u8]>, _) = (bytes.into(), count("MPI_Isend", bytes.len())?);
            self.call(|mpi, sends| {
                let mut request = 0;
                // SAFETY: the bytes are kept until the request is done.
                unsafe {
                    mpi.isend(data.as_ptr().cast(), n, mpi.byte, to as c_int, 0, self.comm, &mut request)?;
                }
                sends.push((request, data));
                Ok(())
            })
        }

        fn recv(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
            let n = count("MPI_Recv", bytes.len())?;
            self.call(|mpi, _| {
                let (mut status, mut sent) = (Status([0; 64]), 0);
                // SAFETY: pointers to locals; the message is received only when it is as long as the bytes have room.
                unsafe {
                    mpi.probe(from as c_int, 0, self.comm, &mut status)?;
                    mpi.get_count(&status, mpi.byte, &mut sent)?;
                    if sent != n {
                        let problem = format!(
                            "rank {from} sent {sent} bytes, expected were {n}: the ranks do not run the same job; start all with \
                             the same program, settings and files"
                        );
                        return Err(CommError::new("MPI_Recv", problem));
                    }
                    let at = bytes.as_mut_ptr().cast();
                    mpi.recv(at, n, mpi.byte, from as c_int, 0, self.comm, &mut status)
                }
            })
        }

        fn split(&self, members: &[usize]) -> Result<Arc<dyn Link>> {
            let mut comm = 0;
            let first = members.first().copied().unwrap_or(0);
            self.call(|mpi, _| {
                // SAFETY: the communicator is live, the pointer is to a local.
                unsafe { mpi.comm_split(self.comm, first as c_int, self.rank as c_int, &mut comm) }
            })?;
            Ok(Arc::new(Group::new(self.session.clone(), comm)?))
        }

        fn all_gather(&self, own: &[u8], all: &mut [u8]) -> Result<()> {
            assert_eq!(all.len(), own.len() * self.size, "all_gather: length");
            let n = count("MPI_Allgather", own.len())?;
            self.call(|mpi, _| {
                let (from, to) = (own.as_ptr().cast(), all.as_mut_ptr().cast());
                // SAFETY: the lengths are checked above.
                unsafe { mpi.all_gather(from, n, mpi.byte, to, n, mpi.byte, self.comm) }
            })
        }

        fn all_to_all(&self, from: &[u8], to: &mut [u8]) -> Result<()> {
            assert_eq!((from.len(), from.len() % self.size), (to.len(), 0), "all_to_all: length");
            let n = count("MPI_Alltoall", from.len() / self.size)?;
            self.call(|mpi, _| {
                let (from, to) = (from.as_ptr().cast(), to.as_mut_ptr().cast());
                // SAFETY: the lengths are checked above.
                unsafe { mpi.all_to_all(from, n, mpi.byte, to, n, mpi.byte, self.comm) }
            })
        }

        fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<()> {
            let n = count("MPI_Bcast", bytes.len())?;
            self.call(|mpi, _| {
                // SAFETY: the bytes are as long as said.
                unsafe { mpi.broadcast(bytes.as_mut_ptr().cast(), n, mpi.byte, root as c_int, self.comm) }
            })
        }

        fn barrier(&self) -> Result<()> {
            // SAFETY: the communicator is live.
            self.call(|mpi, _| unsafe { mpi.barrier(self.comm) })
        }
    }
}
