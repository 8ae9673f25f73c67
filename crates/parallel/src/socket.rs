//! The local engine between processes: a TCP connection between any two ranks, and two threads that pump it.
//!
//! Rank 0 listens where the starter says ([`Place::meet`]); the others tell it where they listen themselves and get the list of all;
//! then every rank connects to those below it. A word that only the job's processes know keeps strangers out.

use crate::{
    error::{CommError, Result},
    link::Link,
    local::{Local, Message, Peer},
};
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

/// How long ranks wait for one another at the start.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two attempts to reach a rank that does not listen yet.
const PAUSE: Duration = Duration::from_millis(20);

/// A process's place in a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// This process's number, from 0.
    pub rank: usize,
    /// Processes in the job.
    pub size: usize,
    /// Where rank 0 listens, `HOST:PORT`.
    pub meet: String,
    /// What every process of the job knows.
    pub word: u64,
}

/// Connects the job's ranks.
///
/// # Errors
/// When a rank cannot be reached, or does not come, within two minutes.
pub fn connect(place: &Place) -> Result<Arc<dyn Link>> {
    let wrong = |e: io::Error| {
        let problem = format!("rank {} of {} at {}: {e}", place.rank, place.size, place.meet);
        CommError::new("connect", problem)
    };
    let streams = streams(place).map_err(wrong)?;
    let mut pumps = Pumps::default();
    let mut list = Vec::with_capacity(place.size);
    for stream in streams {
        list.push(stream.map(|s| pumps.peer(s)).transpose().map_err(wrong)?);
    }
    Ok(Arc::new(Local::new(place.rank, list, Box::new(pumps))))
}

fn streams(place: &Place) -> io::Result<Vec<Option<TcpStream>>> {
    let mut streams: Vec<Option<TcpStream>> = (0..place.size).map(|_| None).collect();
    let until = Instant::now() + PATIENCE;
    if place.rank == 0 {
        let listener = TcpListener::bind(&place.meet)?;
        let mut addresses = vec![listener.local_addr()?; place.size];
        accept(&listener, place, 1, &mut streams, until, |rank, stream| {
            let mut port = [0; 2];
            stream.read_exact(&mut port)?;
            addresses[rank] = SocketAddr::new(stream.peer_addr()?.ip(), u16::from_le_bytes(port));
            Ok(())
        })?;
        let list = addresses.iter().map(|a| format!("{a}\n")).collect::<String>();
        for stream in streams.iter_mut().flatten() {
            stream.write_all(&(list.len() as u32).to_le_bytes())?;
            stream.write_all(list.as_bytes())?;
        }
        return Ok(streams);
    }
    let mut zero = call(&place.meet, place, until)?;
    // Others reach this rank at the address that it reaches rank 0 from.
    let listener = TcpListener::bind((zero.local_addr()?.ip(), 0))?;
    zero.write_all(&listener.local_addr()?.port().to_le_bytes())?;
    let mut len = [0; 4];
    zero.read_exact(&mut len)?;
    let mut list = vec![0; u32::from_le_bytes(len) as usize];
    zero.read_exact(&mut list)?;
    streams[0] = Some(zero);
    let list = String::from_utf8_lossy(&list).into_owned();
    for (rank, address) in list.lines().enumerate().take(place.rank).skip(1) {
        streams[rank] = Some(call(address, place, until)?);
    }
    accept(&listener, place, place.rank + 1, &mut streams, until, |_, _| Ok(()))?;
    Ok(streams)
}

/// Connects to a rank and says who calls.
fn call(address: &str, place: &Place, until: Instant) -> io::Result<TcpStream> {
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(e) if Instant::now() > until => return Err(e),
            Err(_) => sleep(PAUSE),
        }
    };
    stream.set_nodelay(true)?;
    stream.write_all(&place.word.to_le_bytes())?;
    stream.write_all(&(place.rank as u32).to_le_bytes())?;
    Ok(stream)
}

/// Takes the calls of ranks `first..size`; whoever does not know the word is hung up on.
fn accept(
    listener: &TcpListener,
    place: &Place,
    first: usize,
    streams: &mut [Option<TcpStream>],
    until: Instant,
    mut greet: impl FnMut(usize, &mut TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    while streams[first..].iter().any(Option::is_none) {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                sleep(PAUSE);
                continue;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let missing = streams.iter().skip(first).position(Option::is_none).unwrap_or(0) + first;
                let problem = format!("rank {missing} did not come within {} s", PATIENCE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
            }
            Err(e) => return Err(e),
        };
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut hello = [0; 12];
        if stream.read_exact(&mut hello).is_err() || hello[..8] != place.word.to_le_bytes() {
            continue;
        }
        let rank = u32::from_le_bytes(hello[8..].try_into().expect("four bytes")) as usize;
        if rank < first || rank >= place.size || streams[rank].is_some() {
            let problem = format!("a second process says that it is rank {rank} of {}", place.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        greet(rank, &mut stream)?;
        stream.set_read_timeout(None)?;
        streams[rank] = Some(stream);
    }
    Ok(())
}

/// The threads that write; dropped, they have written everything that was sent.
#[derive(Default)]
struct Pumps(Vec<JoinHandle<()>>);

impl Pumps {
    fn peer(&mut self, stream: TcpStream) -> io::Result<Peer> {
        let ((to, outgoing), (incoming, from)) = (channel(), channel());
        let reader = stream.try_clone()?;
        self.0.push(spawn(move || drop(write(stream, &outgoing))));
        // Ends when the other side does.
        spawn(move || drop(read(reader, &incoming)));
        Ok(Peer { to, from: Mutex::new(from) })
    }
}

impl Drop for Pumps {
    fn drop(&mut self) {
        for pump in self.0.drain(..) {
            let _ = pump.join();
        }
    }
}

fn write(mut stream: TcpStream, outgoing: &Receiver<Message>) -> io::Result<()> {
    for Message { group, bytes } in outgoing {
        let mut head = [0; 12];
        head[..4].copy_from_slice(&group.to_le_bytes());
        head[4..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        stream.write_all(&head)?;
        stream.write_all(&bytes)?;
    }
    stream.shutdown(Shutdown::Write)
}

fn read(mut stream: TcpStream, incoming: &Sender<Message>) -> io::Result<()> {
    loop {
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        let group = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
        let len = u64::from_le_bytes(head[4..].try_into().expect("eight bytes"));
        let mut bytes = vec![0; len as usize];
        stream.read_exact(&mut bytes)?;
        if incoming.send(Message { group, bytes }).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_meet_strangers_are_hung_up_on_and_the_end_of_a_rank_is_named() {
        let meet = crate::launch::free_port().unwrap();
        let place = |rank| Place { rank, size: 3, meet: meet.clone(), word: 0x5eed };
        std::thread::scope(|s| {
            for rank in 1..3 {
                let place = place(rank);
                s.spawn(move || {
                    let link = connect(&place).unwrap();
                    let mut all = [0; 3];
                    link.all_gather(&[rank as u8], &mut all).unwrap();
                    assert_eq!(all, [0, 1, 2]);
                    if rank == 2 {
                        // The end of rank 1 is seen here, not waited for.
                        let e = link.recv(1, &mut [0; 4]).unwrap_err().to_string();
                        assert!(e.contains("rank 1 has ended"), "{e}");
                    }
                });
            }
            s.spawn(|| {
                let mut stranger =
                    call(&meet, &Place { word: 7, ..place(1) }, Instant::now() + PATIENCE).unwrap();
                assert_eq!(stranger.read(&mut [0]).unwrap_or(0), 0);
            });
            let link = connect(&place(0)).unwrap();
            let mut all = [0; 3];
            link.all_gather(&[0], &mut all).unwrap();
            assert_eq!(all, [0, 1, 2]);
        });
    }
}
