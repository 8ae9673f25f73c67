//! How the ranks of a job come to be: one process, processes that this one starts, or processes that MPI's starter started.

use crate::{
    error::{CommError, Result},
    link::{Alone, Link},
    mpi,
    socket::{self, Place},
};
use std::{
    env,
    hash::{BuildHasher, Hasher, RandomState},
    io::{Read, Write},
    net::TcpListener,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

/// A process's number, the number of processes, where rank 0 listens (`HOST:PORT`) and a secret number: set by
/// [`Ranks::start`], or by hand to start ranks on several machines.
const RANK: &str = "FERROTUNE_RANK";
const RANKS: &str = "FERROTUNE_RANKS";
const MEET: &str = "FERROTUNE_MEET";
const WORD: &str = "FERROTUNE_WORD";
/// Set where the starter holds the other end of the standard input.
const STARTED: &str = "FERROTUNE_STARTED";

/// How processes are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// MPI under its starter, else processes of our own.
    Auto,
    /// Processes of our own, over sockets.
    Local,
    /// MPI.
    Mpi,
}

/// This process's connection to the others.
pub struct World {
    /// All ranks.
    pub link: Arc<dyn Link>,
    /// This process's number among those on this machine.
    pub local_rank: usize,
    /// Processes on this machine, which share its cores.
    pub local_size: usize,
}

impl World {
    /// A job of one process.
    pub fn alone() -> World {
        World { link: Arc::new(Alone), local_rank: 0, local_size: 1 }
    }
}

/// What this process is.
pub enum Role {
    /// A rank, connected to the others; or the only one.
    Rank(World),
    /// The one that has to start so many ranks.
    Starter(usize),
}

/// How many processes an MPI starter has started together with this one; none when it started one, or there is none.
pub fn started_by_mpi() -> Option<usize> {
    mpi::started().map(|s| s.size).filter(|size| *size > 1)
}

/// Finds out what this process is, of `size` ranks.
///
/// # Errors
/// When the number of processes is another, or they cannot be connected.
pub fn role(size: usize, engine: Engine) -> Result<Role> {
    if let Some(place) = place()? {
        expect_size(size, place.size)?;
        let local = env::var(STARTED).is_ok();
        let (local_rank, local_size) = if local { (place.rank, place.size) } else { (0, 1) };
        return Ok(Role::Rank(World { link: socket::connect(&place)?, local_rank, local_size }));
    }
    let started = mpi::started();
    if engine == Engine::Mpi || (engine == Engine::Auto && started.as_ref().is_some_and(|s| s.size > 1)) {
        let Some(started) = started else {
            let problem = "no MPI starter has started this process; run it under one: mpirun -n N ...";
            return Err(CommError::new("MPI", problem));
        };
        expect_size(size, started.size)?;
        let link = mpi::connect(&started)?;
        return Ok(Role::Rank(World {
            link,
            local_rank: started.local_rank,
            local_size: started.local_size,
        }));
    }
    match size {
        0 | 1 => Ok(Role::Rank(World::alone())),
        n => Ok(Role::Starter(n)),
    }
}

fn expect_size(asked: usize, have: usize) -> Result<()> {
    if asked == have {
        return Ok(());
    }
    let problem = format!("{have} processes were started, the settings ask for {asked} ranks (dp * tp * pp)");
    Err(CommError::new("start", problem))
}

/// This process's place, when its environment says so.
fn place() -> Result<Option<Place>> {
    let Ok(rank) = env::var(RANK) else { return Ok(None) };
    let get = |name: &str| {
        env::var(name)
            .map_err(|_| CommError::new(name, format!("is not set, but {RANK} is; set both or none")))
    };
    fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T> {
        text.parse().map_err(|_| CommError::new(name, format!("is \"{text}\"; use a number")))
    }
    let (rank, size) = (number(RANK, &rank)?, number(RANKS, &get(RANKS)?)?);
    if rank >= size {
        return Err(CommError::new(RANK, format!("is {rank}; use a number below {RANKS}, which is {size}")));
    }
    Ok(Some(Place { rank, size, meet: get(MEET)?, word: number(WORD, &get(WORD)?)? }))
}

/// An address of this machine that nobody listens at, reachable from this machine only.
pub(crate) fn free_port() -> Result<String> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr());
    bound.map(|a| a.to_string()).map_err(|e| CommError::new("start", format!("no port on 127.0.0.1: {e}")))
}

/// After a rank has failed, the others get so long to end by themselves.
const GRACE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Processes that this one has started.
pub struct Ranks {
    children: Vec<Child>,
    inputs: Arc<Mutex<Vec<Option<ChildStdin>>>>,
}

impl Ranks {
    /// Starts this program `size` times, with the arguments it was given.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn start(size: usize) -> Result<Ranks> {
        let failed = |e: std::io::Error| CommError::new("start", e.to_string());
        let program = env::current_exe().map_err(failed)?;
        let meet = free_port()?;
        // The standard library seeds this from the system's random numbers.
        let word = RandomState::new().build_hasher().finish();
        let mut ranks = Ranks { children: Vec::new(), inputs: Arc::default() };
        for rank in 0..size {
            let mut command = Command::new(&program);
            command.args(env::args_os().skip(1)).env(STARTED, "1").env(RANK, rank.to_string());
            command.env(RANKS, size.to_string()).env(MEET, &meet).env(WORD, word.to_string());
            command.stdin(Stdio::piped());
            if rank > 0 {
                command.stdout(Stdio::null());
            }
            let mut child = command.spawn().map_err(failed)?;
            ranks.inputs.lock().unwrap_or_else(|e| e.into_inner()).push(child.stdin.take());
            ranks.children.push(child);
        }
        Ok(ranks)
    }

    /// A function that asks all ranks to stop: at the end of their step; called again, at once.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let inputs = self.inputs.clone();
        move || {
            for input in inputs.lock().unwrap_or_else(|e| e.into_inner()).iter_mut().flatten() {
                let _ = input.write_all(b"s").and_then(|()| input.flush());
            }
        }
    }

    /// Waits for all ranks; gives the exit code of the job: 0 when all ended well.
    pub fn wait(mut self) -> i32 {
        let mut codes: Vec<Option<i32>> = vec![None; self.children.len()];
        let mut failed: Option<Instant> = None;
        while codes.iter().any(Option::is_none) {
            for (rank, (child, code)) in self.children.iter_mut().zip(&mut codes).enumerate() {
                if code.is_none()
                    && let Ok(Some(status)) = child.try_wait()
                {
                    *code = Some(status.code().unwrap_or(1));
                    if status.code().is_none() {
                        eprintln!("error: rank {rank} was killed ({status}); the other ranks end");
                    }
                    if !status.success() {
                        failed.get_or_insert_with(Instant::now);
                    }
                }
            }
            if failed.is_some_and(|at| at.elapsed() > GRACE) {
                let left = self.children.iter_mut().zip(&codes).filter(|(_, code)| code.is_none());
                left.for_each(|(child, _)| drop(child.kill()));
            }
            sleep(LOOK);
        }
        codes.into_iter().flatten().find(|code| *code != 0).unwrap_or(0)
    }
}

/// In a rank that was started by [`Ranks::start`]: calls `on_stop` whenever the starter says so, and ends this process when the
/// starter has ended. Returns whether there is a starter.
pub fn follow_starter(on_stop: impl Fn() + Send + 'static) -> bool {
    if env::var(STARTED).is_err() {
        return false;
    }
    spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read_exact(&mut byte).is_ok() {
            on_stop();
        }
        std::process::exit(1);
    });
    true
}
