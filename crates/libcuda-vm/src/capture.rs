//! Stream capture: work submitted to a capturing stream becomes nodes of a graph.
//!
//! A capture is a set of streams. Each has a frontier: the nodes that its next node depends on. Recording an event takes
//! the frontier along; waiting for that event in another stream brings the stream in, or adds to its frontier.
use crate::{
    context::Context,
    graph::Graph,
    handle::lock,
    op::Op,
    result::{Code, Result},
    stream::{Kind, Stream},
};
use std::{
    cell::Cell,
    collections::BTreeSet,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, ThreadId},
};

/// `CU_STREAM_CAPTURE_MODE_*`: which calls a capture forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Unsafe calls from any thread.
    Global = 0,
    /// Unsafe calls from the thread that began it.
    ThreadLocal = 1,
    /// None.
    Relaxed = 2,
}

impl Mode {
    /// The mode of that number.
    pub fn of(number: i32) -> Result<Mode> {
        match number {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => Err(Code::INVALID_VALUE.because(format!("no capture mode {number}"))),
        }
    }
}

/// A capture under way.
pub struct Capture {
    /// A number that no other capture of the process has.
    pub id: u64,
    /// The graph that it fills.
    pub graph: Arc<Graph>,
    mode: Mode,
    thread: ThreadId,
    origin: u64,
    invalid: AtomicBool,
    streams: Mutex<Vec<Weak<Stream>>>,
}

/// A stream's part in a capture.
#[derive(Clone)]
pub struct Membership {
    /// The capture.
    pub capture: Arc<Capture>,
    /// The nodes that the stream's next node depends on.
    pub frontier: BTreeSet<usize>,
}

/// An event recorded in a capture: where.
#[derive(Clone)]
pub struct Recorded {
    capture: Weak<Capture>,
    frontier: BTreeSet<usize>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static ACTIVE: Mutex<Vec<Weak<Capture>>> = Mutex::new(Vec::new());

thread_local! {
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// `cuThreadExchangeStreamCaptureMode`: how strict captures are with the calling thread.
pub fn exchange_thread_mode(mode: Mode) -> Mode {
    THREAD_MODE.replace(mode)
}

/// Begins a capture of `stream` into `graph`.
pub fn begin(stream: &Arc<Stream>, graph: Arc<Graph>, frontier: BTreeSet<usize>, mode: Mode) -> Result<()> {
    if stream.kind == Kind::Legacy {
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("the legacy default stream cannot be captured"));
    }
    let mut member = lock(&stream.capture);
    if member.is_some() {
        return Err(Code::ILLEGAL_STATE.because("the stream is capturing already"));
    }
    let capture = Arc::new(Capture {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        graph,
        mode,
        thread: thread::current().id(),
        origin: stream.id,
        invalid: AtomicBool::new(false),
        streams: Mutex::new(vec![Arc::downgrade(stream)]),
    });
    let mut active = lock(&ACTIVE);
    active.retain(|c| c.strong_count() > 0);
    active.push(Arc::downgrade(&capture));
    *member = Some(Membership { capture, frontier });
    Ok(())
}

/// Ends the capture that began on `stream`; gives the graph.
pub fn end(stream: &Stream) -> Result<Arc<Graph>> {
    let member = lock(&stream.capture)
        .clone()
        .ok_or_else(|| Code::ILLEGAL_STATE.because("the stream is not capturing"))?;
    let capture = &member.capture;
    if capture.origin != stream.id {
        return Err(Code::STREAM_CAPTURE_UNMATCHED.into());
    }
    if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
        return Err(Code::STREAM_CAPTURE_WRONG_THREAD.into());
    }
    let joined = capture.graph.ancestors(&member.frontier);
    let mut unjoined = false;
    for other in capture.streams() {
        if let Some(m) = lock(&other.capture).take() {
            unjoined |= !m.frontier.is_subset(&joined);
        }
    }
    if capture.invalid.load(Ordering::Acquire) {
        return Err(Code::STREAM_CAPTURE_INVALIDATED.into());
    }
    if unjoined {
        return Err(Code::STREAM_CAPTURE_UNJOINED.into());
    }
    Ok(capture.graph.clone())
}

/// The stream's capture, fit for a new node; `None` when it captures nothing.
pub fn of(stream: &Stream) -> Result<Option<Membership>> {
    let member = lock(&stream.capture).clone();
    match &member {
        Some(m) if m.capture.is_invalid() => Err(Code::STREAM_CAPTURE_INVALIDATED.into()),
        _ => Ok(member),
    }
}

/// Adds a node for `op` after the stream's frontier.
pub fn add(stream: &Stream, member: &Membership, op: Op) -> Result<()> {
    let after: Vec<usize> = member.frontier.iter().copied().collect();
    let node = member.capture.graph.add(op, &after)?;
    if let Some(m) = lock(&stream.capture).as_mut() {
        m.frontier = BTreeSet::from([node.index]);
    }
    Ok(())
}

/// Takes a frontier along in an event.
pub fn record(member: &Membership) -> Recorded {
    Recorded { capture: Arc::downgrade(&member.capture), frontier: member.frontier.clone() }
}

/// A stream waits for an event that was recorded in a capture: it joins that capture.
pub fn join(stream: &Arc<Stream>, recorded: &Recorded) -> Result<()> {
    let capture =
        recorded.capture.upgrade().filter(|c| c.is_active()).ok_or_else(|| {
            Code::INVALID_VALUE.because("the event was recorded in a capture that has ended")
        })?;
    if capture.is_invalid() {
        return Err(Code::STREAM_CAPTURE_INVALIDATED.into());
    }
    if stream.kind == Kind::Legacy {
        capture.invalidate();
        return Err(Code::STREAM_CAPTURE_IMPLICIT.into());
    }
    let mut member = lock(&stream.capture);
    match member.as_mut() {
        Some(m) if m.capture.id != capture.id => {
            m.capture.invalidate();
            capture.invalidate();
            return Err(Code::STREAM_CAPTURE_MERGE.into());
        }
        Some(m) => m.frontier.extend(&recorded.frontier),
        None => {
            lock(&capture.streams).push(Arc::downgrade(stream));
            *member = Some(Membership { capture, frontier: recorded.frontier.clone() });
        }
    }
    Ok(())
}

impl Capture {
    /// Whether an error spoilt it.
    pub fn is_invalid(&self) -> bool {
        self.invalid.load(Ordering::Acquire)
    }

    /// Spoils it: its end will fail.
    pub fn invalidate(&self) {
        self.invalid.store(true, Ordering::Release);
    }

    /// The streams that ever took part. Taken out of the lock first: a stream's own lock comes before it.
    fn streams(&self) -> Vec<Arc<Stream>> {
        lock(&self.streams).iter().filter_map(Weak::upgrade).collect()
    }

    fn is_active(self: &Arc<Self>) -> bool {
        let in_it = |s: &Arc<Stream>| lock(&s.capture).as_ref().is_some_and(|m| m.capture.id == self.id);
        self.streams().iter().any(in_it)
    }
}

fn active() -> Vec<Arc<Capture>> {
    let mut list = lock(&ACTIVE);
    list.retain(|c| c.strong_count() > 0);
    let all: Vec<Arc<Capture>> = list.iter().filter_map(Weak::upgrade).collect();
    drop(list);
    all.into_iter().filter(Capture::is_active).collect()
}

/// For calls that a capture forbids (allocating, synchronous copies, synchronising): spoils the captures that mind.
pub fn forbid() -> Result<()> {
    if THREAD_MODE.get() == Mode::Relaxed {
        return Ok(());
    }
    let here = thread::current().id();
    let mut spoilt = false;
    for capture in active() {
        let minds = match capture.mode {
            Mode::Relaxed => false,
            Mode::ThreadLocal => capture.thread == here,
            Mode::Global => capture.thread == here || THREAD_MODE.get() == Mode::Global,
        };
        if minds {
            capture.invalidate();
            spoilt = true;
        }
    }
    if spoilt { Err(Code::STREAM_CAPTURE_UNSUPPORTED.into()) } else { Ok(()) }
}

/// For work on the legacy stream, which would wait for the capturing streams of its context.
pub fn forbid_legacy(context: &Context) -> Result<()> {
    for stream in context.streams() {
        if let Some(member) = lock(&stream.capture).as_ref()
            && !stream.non_blocking
        {
            member.capture.invalidate();
            return Err(Code::STREAM_CAPTURE_IMPLICIT.into());
        }
    }
    Ok(())
}

/// For waiting for a stream or asking it: not while it captures.
pub fn forbid_in(stream: &Stream) -> Result<()> {
    match lock(&stream.capture).as_ref() {
        Some(member) => {
            member.capture.invalidate();
            Err(Code::STREAM_CAPTURE_UNSUPPORTED.into())
        }
        None => Ok(()),
    }
}

/// For waiting for all of a context's work: not while one of its streams captures.
pub fn forbid_context(context: &Context) -> Result<()> {
    context.streams().iter().try_for_each(|stream| forbid_in(stream))
}
