//! Every collective on every engine that is here, against the same computed on one rank.
//!
//! MPI's run starts this test program again under `mpirun`; without one it is skipped, and says so.

use device::{Buffer, Device};
use parallel::{Carrier, Engine, Mesh, Nccl, Role, Shape, World, role, threads};
use std::process::Command;

/// Rank r's numbers: sums of theirs are not exact, so that the order of adding shows.
fn numbers(rank: usize, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 37 + rank * 101 + 1) as f32 * 0.618).sin() * 10f32.powi(i as i32 % 7 - 3))
        .collect()
}

fn total(size: usize, len: usize) -> Vec<f32> {
    let mut sum = numbers(0, len);
    for r in 1..size {
        sum.iter_mut().zip(numbers(r, len)).for_each(|(a, b)| *a += b);
    }
    sum
}

/// What a rank checks; `device` holds the buffers.
fn check(world: &World, device: &Device) {
    let (rank, size) = (world.link.rank(), world.link.size());
    let mesh = Mesh::new(world, Shape { dp: size, tp: 1, pp: 1 }, device, Carrier::Host).unwrap();
    let comm = &mesh.dp.comm;
    assert_eq!((comm.rank(), comm.size(), mesh.tp.size(), mesh.leads()), (rank, size, 1, rank == 0));
    // Below and above the length that is gathered whole, and beyond a pass.
    for len in [1, 5, 2048, 2049, 70_001, (1 << 20) + 3] {
        let mut x = device.upload(&numbers(rank, len));
        comm.all_reduce(&mut [&mut x]).unwrap();
        assert_eq!(x.to_vec(), total(size, len), "sum of {len}");
    }
    let mut parts: Vec<Buffer> = [3, 0, 70_000, 17, 5].map(|n| device.upload(&numbers(rank, n))).into();
    comm.all_reduce(&mut parts.iter_mut().collect::<Vec<_>>()).unwrap();
    for p in &parts {
        assert_eq!(p.to_vec(), total(size, p.len()), "sum of parts");
    }
    let x = device.upload(&numbers(rank, 12));
    let mut all = device.zeros(12 * size);
    comm.all_gather(&x, &mut all).unwrap();
    assert_eq!(all.to_vec(), (0..size).flat_map(|r| numbers(r, 12)).collect::<Vec<_>>());
    let mut part = device.zeros(7);
    comm.reduce_scatter(&device.upload(&numbers(rank, 7 * size)), &mut part).unwrap();
    assert_eq!(part.to_vec(), total(size, 7 * size)[7 * rank..7 * (rank + 1)]);
    let mut x = device.upload(&numbers(rank, 9));
    comm.broadcast(&mut x, size - 1).unwrap();
    assert_eq!(x.to_vec(), numbers(size - 1, 9));
    // Round the ring, all at once.
    let mut got = device.zeros(100_000);
    let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
    comm.exchange(Some((&device.upload(&numbers(rank, 100_000)), next)), Some((&mut got, before))).unwrap();
    assert_eq!(got.to_vec(), numbers(before, 100_000));
    let mut sums = [rank as f64, 0.1];
    mesh.dp.sum(&mut sums).unwrap();
    assert_eq!(sums[0], (size * (size - 1) / 2) as f64);
    // Of any length, none included.
    let mine: Vec<u32> = (0..rank as u32 * 3).collect();
    let gathered = mesh.dp.gather(&mine).unwrap();
    assert_eq!(gathered, (0..size as u32).flat_map(|r| 0..r * 3).collect::<Vec<_>>());
    comm.barrier().unwrap();
    if size.is_multiple_of(2) {
        groups(world, device);
    }
}

/// Two ways to split: groups see their own members only.
fn groups(world: &World, device: &Device) {
    let (rank, size) = (world.link.rank(), world.link.size());
    let shape = Shape { dp: size / 2, tp: 2, pp: 1 };
    let mesh = Mesh::new(world, shape, device, Carrier::Host).unwrap();
    assert_eq!(mesh.place, Shape { dp: rank / 2, tp: rank % 2, pp: 0 });
    let sum = |group: &parallel::Group| {
        let mut x = device.upload(&[rank as f32]);
        group.comm.all_reduce(&mut [&mut x]).unwrap();
        x.to_vec()[0] as usize
    };
    let pair = rank / 2 * 2;
    assert_eq!(sum(&mesh.tp), 2 * pair + 1);
    assert_eq!(sum(&mesh.dp), (0..size).filter(|r| r % 2 == rank % 2).sum::<usize>());
    assert_eq!(sum(&mesh.world), size * (size - 1) / 2);
    let e = Mesh::new(world, Shape { dp: 1, tp: 1, pp: 9 }, device, Carrier::Host).err().unwrap();
    assert!(e.to_string().contains("9 ranks"), "{e}");
}

#[test]
fn collectives_between_threads() {
    for size in [2, 3, 4] {
        std::thread::scope(|s| {
            for link in threads(size) {
                s.spawn(|| check(&World { link, local_rank: 0, local_size: size }, &Device::cpu()));
            }
        });
    }
}

#[test]
fn ranks_that_disagree_or_end_are_named() {
    let links = threads(2);
    std::thread::scope(|s| {
        let mut links = links.into_iter();
        let (zero, one) = (links.next().unwrap(), links.next().unwrap());
        s.spawn(move || {
            one.send(0, &[1, 2]).unwrap();
            drop(one);
        });
        let e = zero.recv(1, &mut [0; 3]).unwrap_err().to_string();
        assert!(e.contains("rank 1 sent 2 bytes") && e.contains("do not run the same job"), "{e}");
        let e = zero.recv(1, &mut [0; 3]).unwrap_err().to_string();
        assert!(e.contains("rank 1 has ended"), "{e}");
    });
}

#[test]
fn a_dry_run_counts_what_a_rank_sends() {
    let device = Device::meta();
    let mesh = Mesh::dry(Shape { dp: 4, tp: 2, pp: 1 }, 3);
    assert_eq!(mesh.place, Shape { dp: 1, tp: 1, pp: 0 });
    let mut x = device.zeros(1000);
    mesh.dp.comm.all_reduce(&mut [&mut x]).unwrap();
    assert_eq!((mesh.dp.traffic().calls, mesh.dp.traffic().bytes), (1, 2 * 3 * 4000 / 4));
    assert_eq!(mesh.tp.traffic().bytes, 0);
    assert_eq!(mesh.dp.gather(&[5u8]).unwrap(), [5; 4]);
}

/// Under an MPI starter this is a rank; else it starts itself under each starter that is installed.
#[test]
fn collectives_over_mpi() {
    if std::env::var("PARALLEL_TEST_RANK").is_ok() {
        match role(4, Engine::Mpi).unwrap() {
            Role::Rank(world) => check(&world, &Device::cpu()),
            Role::Starter(_) => unreachable!("MPI has its own starter"),
        }
        return;
    }
    let mut ran = 0;
    for starter in ["mpirun.openmpi", "mpirun.mpich"] {
        let mut command = Command::new(starter);
        if starter.ends_with("openmpi") {
            command.args(["--allow-run-as-root", "--oversubscribe"]);
        }
        command.args(["-n", "4"]).arg(std::env::current_exe().unwrap());
        command.args(["collectives_over_mpi", "--exact", "--nocapture"]).env("PARALLEL_TEST_RANK", "1");
        let Ok(output) = command.output() else {
            println!("skipped: {starter} is not installed");
            continue;
        };
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{starter}: {}\n{said}", output.status);
        assert_eq!(said.matches("1 passed").count(), 4, "{starter}: {said}");
        ran += 1;
    }
    println!("{ran} MPI implementations");
}

#[test]
fn nccl_loads_where_it_is_installed() {
    match Nccl::load() {
        Ok(nccl) => {
            let version = nccl.version().unwrap();
            println!("NCCL {version}");
            assert!(version > 20_400, "{version}");
        }
        Err(e) => {
            println!("skipped: {e}");
            assert!(e.to_string().contains("FERROTUNE_NCCL"), "{e}");
        }
    }
}
