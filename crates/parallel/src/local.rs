//! The reference engine: messages through channels, between threads or, pumped over sockets ([`crate::socket`]), between
//! processes. For tests, and for a user who has no MPI.

use crate::{
    error::{CommError, Result},
    link::Link,
};
use std::sync::{
    Arc, Mutex,
    mpsc::{Receiver, Sender, channel},
};

/// One message: the group that it is for, and its bytes.
pub(crate) struct Message {
    pub group: u32,
    pub bytes: Vec<u8>,
}

/// The two directions between this rank and another.
pub(crate) struct Peer {
    pub to: Sender<Message>,
    pub from: Mutex<Receiver<Message>>,
}

/// What is released when the last group of a rank is dropped.
pub(crate) type Guard = Box<dyn Send + Sync>;

struct Peers {
    /// By rank; none at this rank's own place.
    list: Vec<Option<Peer>>,
    // After the peers: their senders end before what carries their last messages is waited for.
    _guard: Guard,
}

/// A group of ranks joined by channels.
pub(crate) struct Local {
    peers: Arc<Peers>,
    /// The members' ranks among the peers, ascending.
    members: Vec<usize>,
    me: usize,
    group: u32,
}

impl Local {
    pub(crate) fn new(rank: usize, list: Vec<Option<Peer>>, guard: Guard) -> Local {
        let members = (0..list.len()).collect();
        Local { peers: Arc::new(Peers { list, _guard: guard }), members, me: rank, group: 0 }
    }

    fn peer(&self, rank: usize) -> Result<&Peer> {
        let peer = self.members.get(rank).and_then(|r| self.peers.list[*r].as_ref());
        peer.ok_or_else(|| CommError::new("send or recv", format!("rank {} has no peer {rank}", self.me)))
    }
}

/// `size` ranks in one process, for a thread each.
pub fn threads(size: usize) -> Vec<Arc<dyn Link>> {
    let mut lists: Vec<Vec<Option<Peer>>> = (0..size).map(|_| (0..size).map(|_| None).collect()).collect();
    for a in 0..size {
        for b in a + 1..size {
            let ((to_b, from_a), (to_a, from_b)) = (channel(), channel());
            lists[a][b] = Some(Peer { to: to_b, from: Mutex::new(from_b) });
            lists[b][a] = Some(Peer { to: to_a, from: Mutex::new(from_a) });
        }
    }
    let link = |(rank, list)| Arc::new(Local::new(rank, list, Box::new(()))) as Arc<dyn Link>;
    lists.into_iter().enumerate().map(link).collect()
}

impl Link for Local {
    fn rank(&self) -> usize {
        self.me
    }

    fn size(&self) -> usize {
        self.members.len()
    }

    fn name(&self) -> &'static str {
        "local"
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        let message = Message { group: self.group, bytes: bytes.to_vec() };
        self.peer(to)?.to.send(message).map_err(|_| ended("send", self.members[to]))
    }

    fn recv(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        let receiver = self.peer(from)?.from.lock().unwrap_or_else(|e| e.into_inner());
        let message = receiver.recv().map_err(|_| ended("recv", self.members[from]))?;
        if (message.group, message.bytes.len()) != (self.group, bytes.len()) {
            let problem = format!(
                "rank {} sent {} bytes in group {}, expected were {} bytes in group {}: the ranks do not run the same job; \
                 start all with the same program, settings and files",
                self.members[from],
                message.bytes.len(),
                message.group,
                bytes.len(),
                self.group
            );
            return Err(CommError::new("recv", problem));
        }
        bytes.copy_from_slice(&message.bytes);
        Ok(())
    }

    fn split(&self, members: &[usize]) -> Result<Arc<dyn Link>> {
        let me = members.iter().position(|m| *m == self.me);
        let me = me.ok_or_else(|| CommError::new("split", format!("rank {} is not a member", self.me)))?;
        // Messages between two ranks come in the order they were sent: the number only tells a mix-up.
        let group = self.group * 31 + 1 + members[0] as u32 + 7 * members.len() as u32;
        let members = members.iter().map(|m| self.members[*m]).collect();
        Ok(Arc::new(Local { peers: self.peers.clone(), members, me, group }))
    }
}

fn ended(call: &str, rank: usize) -> CommError {
    CommError::new(call, format!("rank {rank} has ended; its own message says why"))
}
