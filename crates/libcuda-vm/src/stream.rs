//! Streams: queues of work, each in order, with a thread each.
//!
//! - A task starts when the tasks before it in its stream and the fences it comes after are done. Fences always belong
//!   to earlier submissions (one order per context, [`Context::order`]), so nothing waits in a circle.
//! - The legacy default stream comes after everything submitted before it to blocking streams, and they come after it:
//!   both are fences added at submission.
//! - A call that must wait anyway runs its work on the calling thread when the stream is idle: no thread switch.
use crate::{
    capture::Membership,
    context::{self, Context},
    fence::Fence,
    ffi::panic_text,
    handle::{Table, lock},
    result::{Code, Result},
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// All streams that clients created, by handle.
pub static STREAMS: Table<Stream> = Table::new(2, "stream");

/// The handle of the legacy default stream.
const LEGACY: usize = 1;
/// The handle of the calling thread's default stream.
const PER_THREAD: usize = 2;

/// The lowest and the highest priority of a stream; lower numbers go first.
pub const PRIORITIES: (i32, i32) = (0, -5);

/// What a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The context's legacy default stream.
    Legacy,
    /// A thread's own default stream.
    PerThread,
    /// One that the client created.
    Created,
}

/// A queue of work.
pub struct Stream {
    /// Its handle.
    pub handle: usize,
    /// A number that no other stream of the process has.
    pub id: u64,
    /// Its context.
    pub context: Weak<Context>,
    /// What it is.
    pub kind: Kind,
    /// Whether it keeps out of the legacy stream's way.
    pub non_blocking: bool,
    /// Its priority, kept for the client: workers are threads of one priority.
    pub priority: i32,
    /// The capture it takes part in.
    pub capture: Mutex<Option<Membership>>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// A task runs, on the worker or on a waiting client's thread.
    busy: bool,
    has_worker: bool,
    closed: bool,
    last: Option<Arc<Fence>>,
}

/// Work for a stream.
pub type Work = Box<dyn FnOnce() -> Result<()> + Send>;

struct Task {
    after: Vec<Arc<Fence>>,
    work: Work,
    /// Runs even when the context is broken.
    always: bool,
    fence: Arc<Fence>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Stream {
    /// A stream of a context; the caller lists it there ([`Context::adopt`]).
    pub fn new(context: Weak<Context>, kind: Kind, non_blocking: bool, priority: i32) -> Arc<Stream> {
        let handle = match kind {
            Kind::Legacy => LEGACY,
            Kind::PerThread => PER_THREAD,
            Kind::Created => STREAMS.reserve(),
        };
        Arc::new(Stream {
            handle,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            context,
            kind,
            non_blocking,
            priority,
            capture: Mutex::new(None),
            queue: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The fence after the last task, unless everything is done.
    pub fn last(&self) -> Option<Arc<Fence>> {
        lock(&self.queue).last.clone().filter(|f| !f.is_reached())
    }

    /// Waits for everything submitted so far.
    pub fn drain(&self) {
        if let Some(fence) = self.last() {
            fence.wait();
        }
    }

    /// Takes no more work; the worker ends when the queue is empty.
    pub fn close(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
    }

    /// The fences that any new task of this stream comes after: the legacy stream's rules.
    fn implicit(&self, context: &Context) -> Vec<Arc<Fence>> {
        match self.kind {
            Kind::Legacy => {
                let blocking = |s: &Arc<Stream>| !s.non_blocking && s.kind != Kind::Legacy;
                context.streams().iter().filter(|s| blocking(s)).filter_map(|s| s.last()).collect()
            }
            _ if self.non_blocking => Vec::new(),
            _ => context.legacy.last().into_iter().collect(),
        }
    }

    /// Submits work that comes after `after`; gives the fence that it reaches.
    pub fn submit(
        self: &Arc<Self>,
        context: &Context,
        after: &[Arc<Fence>],
        always: bool,
        work: Work,
    ) -> Arc<Fence> {
        let _order = lock(&context.order);
        let mut all = self.implicit(context);
        all.extend_from_slice(after);
        let fence = Arc::<Fence>::default();
        let mut queue = lock(&self.queue);
        queue.tasks.push_back(Task { after: all, work, always, fence: fence.clone() });
        queue.last = Some(fence.clone());
        if !queue.has_worker {
            queue.has_worker = true;
            let stream = self.clone();
            let name = format!("stream-{}", self.id);
            let started = std::thread::Builder::new().name(name).spawn(move || stream.work());
            started.expect("the system has a thread for a stream");
        }
        drop(queue);
        self.changed.notify_all();
        fence
    }

    /// Submits work and waits for it: on the calling thread when the stream is idle.
    pub fn run(self: &Arc<Self>, context: &Context, work: Work) -> Result<()> {
        let order = lock(&context.order);
        let mut queue = lock(&self.queue);
        if queue.busy || !queue.tasks.is_empty() {
            drop((queue, order));
            self.submit(context, &[], false, work).wait();
            return context.failure();
        }
        queue.busy = true;
        let fence = Arc::<Fence>::default();
        queue.last = Some(fence.clone());
        // `implicit` asks other streams, never this one, for their queues.
        let after = self.implicit(context);
        drop((queue, order));
        self.execute(Task { after, work, always: false, fence });
        context.failure()
    }

    /// The worker's life.
    fn work(self: Arc<Self>) {
        loop {
            let mut queue = lock(&self.queue);
            while queue.busy || queue.tasks.is_empty() {
                if queue.closed && queue.tasks.is_empty() {
                    queue.has_worker = false;
                    return;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let Some(task) = queue.tasks.pop_front() else { continue };
            queue.busy = true;
            drop(queue);
            self.execute(task);
        }
    }

    /// Runs one task; the stream is marked busy.
    fn execute(&self, task: Task) {
        for fence in &task.after {
            fence.wait();
        }
        if let Some(context) = self.context.upgrade()
            && (task.always || context.failure().is_ok())
        {
            let result = catch_unwind(AssertUnwindSafe(task.work)).unwrap_or_else(|panic| {
                eprintln!("ferrotune-vm: internal error in a stream: {}", panic_text(&*panic));
                Err(Code::UNKNOWN.because("internal error"))
            });
            if let Err(failure) = result {
                context.fail(&failure);
            }
        }
        lock(&self.queue).busy = false;
        task.fence.reach();
        self.changed.notify_all();
    }
}

thread_local! {
    static PER_THREAD_DEFAULT: Cell<bool> = const { Cell::new(false) };
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
    static OWN: RefCell<BTreeMap<u64, Own>> = const { RefCell::new(BTreeMap::new()) };
}

/// A thread's default stream; it closes when the thread ends.
struct Own(Arc<Stream>);

impl Drop for Own {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// While it lives, the null stream is the calling thread's own.
pub struct PerThreadDefault(bool);

impl Drop for PerThreadDefault {
    fn drop(&mut self) {
        PER_THREAD_DEFAULT.set(self.0);
    }
}

/// Makes the null stream the calling thread's own.
pub fn per_thread_default() -> PerThreadDefault {
    PerThreadDefault(PER_THREAD_DEFAULT.replace(true))
}

/// Whether the calling thread is inside a host function of a stream.
pub fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Runs a client's host function, inside which the driver may not be called.
pub fn calling_back(function: impl FnOnce()) {
    let before = IN_CALLBACK.replace(true);
    function();
    IN_CALLBACK.set(before);
}

fn own(context: &Arc<Context>) -> Arc<Stream> {
    OWN.with_borrow_mut(|own| {
        let stream = own.entry(context.id).or_insert_with(|| {
            let stream = Stream::new(Arc::downgrade(context), Kind::PerThread, false, 0);
            context.adopt(&stream);
            Own(stream)
        });
        stream.0.clone()
    })
}

/// The stream of a handle, and its context: the current one for the default streams.
pub fn target(handle: usize) -> Result<(Arc<Context>, Arc<Stream>)> {
    let current = context::current()?;
    match handle {
        0 if PER_THREAD_DEFAULT.get() => Ok((current.clone(), own(&current))),
        0 | LEGACY => Ok((current.clone(), current.legacy.clone())),
        PER_THREAD => Ok((current.clone(), own(&current))),
        _ => {
            let stream = STREAMS.get(handle)?;
            let context = stream.context.upgrade().ok_or(Code::CONTEXT_IS_DESTROYED)?;
            context.alive()?;
            Ok((context, stream))
        }
    }
}
