//! The threads behind the parallel loops: one leader, the caller, and workers that wait awake for a while.
//!
//! A training step of a small model is some hundred loops of a tenth of a millisecond each. Waking a sleeping
//! thread takes a good part of that, so a worker that has run out of work keeps looking for more for
//! [`AWAKE`] turns before it sleeps.
//!
//! Each thread begins with its own part of the tasks, the same part in every loop, and helps with the others' when
//! that is done. Tasks go by rows, so the rows that a thread reads are mostly those that it wrote a loop before: they
//! are in its own core's cache, where fetching them from another core's can cost more than the work on them. Which
//! thread runs which task is still left to chance, which is why no result may depend on it.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::{Builder, Thread, available_parallelism, park, yield_now},
};

/// Turns of looking for work before a worker sleeps: about a tenth of a millisecond.
const AWAKE: usize = 4_000;
/// Turns of waiting for the last worker before the leader lets others have the core.
const PATIENCE: usize = 20_000;

/// Most parts that the tasks of a loop are cut into.
const PARTS: usize = 64;

/// The next task of a part, on a cache line of its own.
#[repr(align(64))]
struct Next(AtomicUsize);

static LIMIT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Threads that loops of this thread may use; 0: no limit of its own.
    static OWN_LIMIT: Cell<usize> = const { Cell::new(0) };
}

/// Threads that a loop started here may use: 1 inside a parallel loop.
pub fn threads() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    match (OWN_LIMIT.get(), LIMIT.load(SeqCst)) {
        (0, 0) => *CORES.get_or_init(|| available_parallelism().map_or(1, usize::from)),
        (0, all) => all,
        (own, _) => own,
    }
}

/// Sets how many threads loops use; 0: one per core.
pub fn set_threads(count: usize) {
    LIMIT.store(count, SeqCst);
}

/// Calls `f` with loops limited to `count` threads.
pub fn with_threads<T>(count: usize, f: impl FnOnce() -> T) -> T {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            OWN_LIMIT.set(self.0);
        }
    }
    let _restore = Restore(OWN_LIMIT.replace(count.max(1)));
    f()
}

/// The loop in progress. `body` points to the caller's closure, alive until the caller has closed the loop
/// and `inside` has come back to 0.
struct Team {
    /// Held for the length of a loop: one at a time.
    leader: Mutex<Vec<Thread>>,
    /// Counts loops, so that a waiting worker sees a new one.
    loops: AtomicU64,
    open: AtomicBool,
    /// Workers that have entered the loop and not left it.
    inside: AtomicUsize,
    /// Workers that may still enter.
    seats: AtomicUsize,
    asleep: AtomicUsize,
    next: [Next; PARTS],
    parts: AtomicUsize,
    tasks: AtomicUsize,
    range: AtomicUsize,
    body: AtomicPtr<()>,
    /// The function that knows the type behind `body`.
    call: AtomicPtr<()>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

static TEAM: Team = Team {
    leader: Mutex::new(Vec::new()),
    loops: AtomicU64::new(0),
    open: AtomicBool::new(false),
    inside: AtomicUsize::new(0),
    seats: AtomicUsize::new(0),
    asleep: AtomicUsize::new(0),
    next: [const { Next(AtomicUsize::new(0)) }; PARTS],
    parts: AtomicUsize::new(1),
    tasks: AtomicUsize::new(0),
    range: AtomicUsize::new(0),
    body: AtomicPtr::new(std::ptr::null_mut()),
    call: AtomicPtr::new(std::ptr::null_mut()),
    panic: Mutex::new(None),
};

/// Runs task `i` of the closure behind `body`.
type Call = unsafe fn(*const (), usize);

/// # Safety
/// `body` must point to a live `F`.
unsafe fn call<F: Fn(usize)>(body: *const (), i: usize) {
    // SAFETY: the caller's contract.
    unsafe { (*body.cast::<F>())(i) }
}

/// Calls `f(i)` for `i` in `0..tasks` on the team, `range` at a time. Runs them all here when another loop
/// has the team.
pub(crate) fn run<F: Fn(usize) + Sync>(tasks: usize, range: usize, f: F) {
    let wanted = threads() - 1;
    let Ok(mut workers) = TEAM.leader.try_lock() else {
        return with_threads(1, || (0..tasks).for_each(f));
    };
    while workers.len() < wanted {
        let name = format!("ferrotune-{}", workers.len() + 1);
        let own = workers.len() + 1;
        match Builder::new().name(name).spawn(move || work(own)) {
            Ok(handle) => workers.push(handle.thread().clone()),
            Err(_) => break,
        }
    }
    TEAM.body.store((&raw const f).cast_mut().cast(), SeqCst);
    TEAM.call.store(call::<F> as Call as *mut (), SeqCst);
    TEAM.tasks.store(tasks, SeqCst);
    TEAM.range.store(range.max(1), SeqCst);
    let parts = (wanted + 1).min(PARTS);
    TEAM.parts.store(parts, SeqCst);
    for (i, next) in TEAM.next[..parts].iter().enumerate() {
        next.0.store(start(tasks, parts, i), SeqCst);
    }
    TEAM.seats.store(wanted, SeqCst);
    TEAM.open.store(true, SeqCst);
    TEAM.loops.fetch_add(1, SeqCst);
    if TEAM.asleep.load(SeqCst) > 0 {
        workers.iter().for_each(Thread::unpark);
    }
    // SAFETY: `f` lives to the end of this function, which waits for every worker inside.
    unsafe { TEAM.take_part(0) };
    TEAM.open.store(false, SeqCst);
    let mut turns = 0;
    while TEAM.inside.load(SeqCst) > 0 {
        turns += 1;
        if turns < PATIENCE { std::hint::spin_loop() } else { yield_now() }
    }
    let panic = TEAM.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
    drop(workers);
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

/// The first task of part `i`.
fn start(tasks: usize, parts: usize, i: usize) -> usize {
    tasks / parts * i + (tasks % parts * i) / parts
}

impl Team {
    /// Runs tasks until none is left, those of part `first` before the others; a panic is kept for the leader and ends the loop early.
    ///
    /// # Safety
    /// `body` and `call` must stay as they are, and the closure alive, until this returns.
    unsafe fn take_part(&self, first: usize) {
        let own = OWN_LIMIT.replace(1);
        let (body, tasks, range) = (self.body.load(SeqCst), self.tasks.load(SeqCst), self.range.load(SeqCst));
        // SAFETY: `run` stored a `Call` here.
        let call = unsafe { std::mem::transmute::<*mut (), Call>(self.call.load(SeqCst)) };
        let parts = self.parts.load(SeqCst);
        let result = catch_unwind(AssertUnwindSafe(|| {
            for part in (first..first + parts).map(|p| p % parts) {
                let end = start(tasks, parts, part + 1);
                loop {
                    let first = self.next[part].0.fetch_add(range, SeqCst);
                    if first >= end {
                        break;
                    }
                    for i in first..(first + range).min(end) {
                        // SAFETY: the closure is alive by the caller's contract.
                        unsafe { call(body, i) };
                    }
                }
            }
        }));
        OWN_LIMIT.set(own);
        if let Err(panic) = result {
            self.next[..parts].iter().for_each(|n| n.0.store(tasks, SeqCst));
            self.panic.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(panic);
        }
    }
}

/// A worker's life; it begins every loop with part `own`.
fn work(own: usize) {
    let mut seen = 0;
    loop {
        let mut turns = 0;
        while TEAM.loops.load(SeqCst) == seen {
            turns += 1;
            if turns < AWAKE {
                std::hint::spin_loop();
                continue;
            }
            TEAM.asleep.fetch_add(1, SeqCst);
            // A loop begun before this is seen here; one begun after it wakes this thread.
            if TEAM.loops.load(SeqCst) == seen {
                park();
            }
            TEAM.asleep.fetch_sub(1, SeqCst);
        }
        seen = TEAM.loops.load(SeqCst);
        // Entering first and looking second: the leader closes first and counts second, so either it sees
        // this worker inside or this worker sees the loop closed.
        TEAM.inside.fetch_add(1, SeqCst);
        if TEAM.open.load(SeqCst) && TEAM.seats.fetch_update(SeqCst, SeqCst, |s| s.checked_sub(1)).is_ok() {
            // SAFETY: the loop was open after entering, so its leader waits for this worker.
            unsafe { TEAM.take_part(own) };
        }
        TEAM.inside.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_threads() {
        for threads in [1, 2, 5] {
            for tasks in [1, 2, 3, 100, 1001] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                with_threads(threads, || {
                    for range in [1, 7] {
                        run(tasks, range, |i| {
                            counts[i].fetch_add(1, SeqCst);
                        });
                    }
                });
                assert!(counts.iter().all(|c| c.load(SeqCst) == 2), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn a_loop_inside_a_loop_runs_and_so_do_loops_of_other_threads() {
        let count = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    with_threads(2, || {
                        run(50, 1, |_| {
                            assert_eq!(threads(), 1);
                            run(10, 1, |_| {
                                count.fetch_add(1, SeqCst);
                            });
                        });
                    });
                });
            }
        });
        assert_eq!(count.load(SeqCst), 4 * 500);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let result = catch_unwind(|| {
            with_threads(2, || run(100, 1, |i| assert!(i != 63, "task {i} fails")));
        });
        assert!(result.is_err());
        let count = AtomicUsize::new(0);
        with_threads(2, || {
            run(9, 1, |_| {
                count.fetch_add(1, SeqCst);
            })
        });
        assert_eq!(count.load(SeqCst), 9);
    }
}
