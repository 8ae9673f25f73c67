//! `cargo xtask ptx`: export the kernels; check, run and count PTX files on the VM.

mod arg;
mod export;
mod report;

use crate::{fail, vm};
use arg::Arg;
use ptx_vm::{Checks, DeviceModel, Kernel, Launch, Loaded, Memory, Module, Options, gpu::Gpu};
use std::{fs, path::PathBuf, process::Command, str::FromStr};

const HELP: &str = "\
Examples:
  cargo xtask ptx --out kernels-ptx           every kernel as .ptx, with manifest.json for engines in any language
  cargo xtask ptx check kernel.ptx
  cargo xtask ptx run kernel.ptx --entry add --grid 4 --block 256 \\
      --arg iota:f32:1000 --arg iota:f32:1000 --arg zeros:f32:1000 --arg u32:1000
  cargo xtask ptx counters launches.json --gpu rtx3090,a100
  cargo xtask ptx counters -- ./bench";

/// Export the kernels as PTX files; check, run and count PTX on the VM.
#[derive(clap::Args)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Args {
    /// Write the PTX of every kernel and a manifest to this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Compile PTX files: every diagnostic, or what the kernels need.
    Check(Check),
    /// Run one kernel and print its buffers.
    Run(Run),
    /// Show what launches did: instructions, bytes, conflicts, predicted times.
    Counters(Counters),
}

#[derive(clap::Args)]
struct Check {
    /// PTX files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

const RUN_HELP: &str = "\
Arguments, one --arg a parameter, in order:
  TYPE:VALUE          a scalar: u8 s8 b8 u16 s16 b16 u32 s32 b32 u64 s64 b64 f16 bf16 f32 f64; b.. in hexadecimal too
  zeros:TYPE:COUNT    a buffer of zeros, passed by its address
  ones:TYPE:COUNT     a buffer of ones
  iota:TYPE:COUNT     a buffer of 0, 1, 2, ...
  file:TYPE:PATH      a buffer with the bytes of a file, little-endian
Append =PATH to a buffer to write it to a file afterwards: zeros:f32:1000=out.bin";

/// Run one kernel and print its buffers.
#[derive(clap::Args)]
#[command(after_help = RUN_HELP)]
struct Run {
    /// The PTX file.
    file: PathBuf,
    /// The kernel; needed when the file has several.
    #[arg(long)]
    entry: Option<String>,
    /// Blocks: X, X,Y or X,Y,Z.
    #[arg(long, default_value = "1")]
    grid: Size,
    /// Threads of a block: X, X,Y or X,Y,Z.
    #[arg(long, default_value = "32")]
    block: Size,
    /// Dynamic shared memory, bytes.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// A parameter (see below).
    #[arg(long = "arg", value_name = "SPEC")]
    args: Vec<Arg>,
    /// Elements of each buffer to print.
    #[arg(long, default_value_t = 8, value_name = "N")]
    print: usize,
    /// Print the counters too, with predictions for these GPUs.
    #[arg(long, value_delimiter = ',', num_args = 0..=1, default_missing_value = "rtx3090", value_name = "GPU,...")]
    counters: Option<Vec<String>>,
    /// What is checked: off, memory, all.
    #[arg(long, default_value = "all", value_parser = checks)]
    checks: Checks,
    /// Seed of the adversarial schedule.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Threads to run on.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// GPU to play.
    #[arg(long, default_value = "rtx3090", value_name = "KEY")]
    device: String,
}

const COUNTERS_HELP: &str = "\
The file is what FERROTUNE_VM_COUNTERS=FILE (or cargo xtask vm --counters FILE) leaves behind.
Predicted times are roofline predictions from counted work and data-sheet rates, not measurements: each launch is as
slow as its scarcest resource, and no cache is assumed to hit.";

/// Show what launches did.
#[derive(clap::Args)]
#[command(after_help = COUNTERS_HELP)]
struct Counters {
    /// A file of counters.
    #[arg(required_unless_present = "program", conflicts_with = "program")]
    file: Option<PathBuf>,
    /// GPUs to predict times for.
    #[arg(long, value_delimiter = ',', default_value = "rtx3090,a100", value_name = "GPU,...")]
    gpu: Vec<String>,
    #[command(flatten)]
    settings: vm::Settings,
    /// Run this program on the VM and show what it launched.
    #[arg(last = true)]
    program: Vec<String>,
}

/// X, X,Y or X,Y,Z.
#[derive(Clone, Copy)]
struct Size([u32; 3]);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
        let mut size = [1; 3];
        match numbers {
            Ok(n) if (1..=3).contains(&n.len()) => size[..n.len()].copy_from_slice(&n),
            _ => return Err("want X, X,Y or X,Y,Z".into()),
        }
        Ok(Size(size))
    }
}

fn checks(text: &str) -> Result<Checks, String> {
    match text {
        "off" => Ok(Checks::Off),
        "memory" => Ok(Checks::Memory),
        "all" => Ok(Checks::All),
        _ => Err("want off, memory or all".into()),
    }
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    let result = match (args.out, args.command) {
        (_, Some(Sub::Check(check))) => return check_files(&check.files),
        (_, Some(Sub::Run(run))) => run_kernel(&run),
        (_, Some(Sub::Counters(counters))) => show_counters(&counters),
        (Some(out), None) => export::export(&out)
            .map(|entries| println!("{}: {entries} entries, see manifest.json", out.display())),
        (None, None) => unreachable!("clap requires one of them"),
    };
    result.map_or_else(fail, |()| 0)
}

fn compile(file: &PathBuf) -> Result<std::sync::Arc<Module>, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    Module::compile(&file.to_string_lossy(), &text).map_err(|e| e.to_string())
}

fn check_files(files: &[PathBuf]) -> i32 {
    let mut code = 0;
    for file in files {
        match compile(file) {
            Ok(module) => {
                println!("{}: sm_{}", file.display(), module.target_sm());
                module.kernels().for_each(|k| println!("  {}", describe(k)));
            }
            Err(e) => code = fail(e),
        }
    }
    code
}

fn describe(kernel: &Kernel) -> String {
    let Kernel { name, params, param_bytes, static_shared, local_bytes, registers, .. } = kernel;
    let count = params.len();
    format!(
        "{name}: {count} parameters in {param_bytes} bytes, {static_shared} bytes shared, {local_bytes} bytes local, \
         about {registers} registers"
    )
}

fn run_kernel(run: &Run) -> Result<(), String> {
    let module = compile(&run.file)?;
    let kernel = pick(&module, run.entry.as_deref())?;
    if run.args.len() != kernel.params.len() {
        let kinds: Vec<String> =
            kernel.params.iter().map(|p| format!("{} ({} bytes)", p.name, p.size)).collect();
        return Err(format!("{} takes {}: {} --arg given", kernel.name, kinds.join(", "), run.args.len()));
    }
    let gpu = named(&run.device)?;
    let memory = Memory::new(gpu.memory_bytes as usize).map_err(|e| e.to_string())?;
    memory.set_poison(run.seed);
    let loaded = Loaded::new(&module, &memory).map_err(|e| e.to_string())?;
    let mut params = vec![0; kernel.param_bytes];
    let mut buffers = Vec::new();
    for (param, arg) in kernel.params.iter().zip(&run.args) {
        let value = match arg {
            Arg::Scalar(bytes) => bytes.clone(),
            Arg::Buffer(buffer) => {
                let address = memory.alloc(buffer.bytes.len(), 256).map_err(|e| e.to_string())?;
                memory.write(address, &buffer.bytes).map_err(|e| e.to_string())?;
                buffers.push((param.name.as_str(), buffer, address));
                address.to_le_bytes().to_vec()
            }
        };
        if value.len() != param.size {
            return Err(format!(
                "parameter {} has {} bytes; its --arg has {}",
                param.name,
                param.size,
                value.len()
            ));
        }
        params[param.offset..param.offset + param.size].copy_from_slice(&value);
    }
    let launch =
        Launch { grid: run.grid.0, block: run.block.0, shared_bytes: run.shared, params, cooperative: false };
    let options = Options {
        checks: run.checks,
        seed: run.seed,
        threads: run.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        device: DeviceModel {
            sm: gpu.sm,
            sm_count: gpu.sm_count,
            clock_khz: gpu.clock_khz,
            ..DeviceModel::default()
        },
        ..Options::default()
    };
    let counters =
        ptx_vm::launch(&memory, &loaded, &kernel.name, &launch, &options).map_err(|e| e.to_string())?;
    for (name, buffer, address) in buffers {
        let mut bytes = vec![0; buffer.bytes.len()];
        memory.read(address, &mut bytes).map_err(|e| e.to_string())?;
        println!("{name}: {}", buffer.kind.show(&bytes, run.print));
        if let Some(path) = &buffer.save {
            fs::write(path, &bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    if let Some(gpus) = &run.counters {
        let row =
            report::Row { kernel: kernel.name.clone(), grid: launch.grid, block: launch.block, counters };
        print!("{}", report::table(&[row], &all_named(gpus)?));
    }
    Ok(())
}

fn pick<'a>(module: &'a Module, entry: Option<&str>) -> Result<&'a Kernel, String> {
    let names: Vec<&str> = module.kernels().map(|k| k.name.as_str()).collect();
    let name = match (entry, &names[..]) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, _) => return Err(format!("--entry picks one of {}", names.join(", "))),
    };
    module.kernel(name).ok_or_else(|| format!("no kernel {name}; the file has {}", names.join(", ")))
}

fn named(key: &str) -> Result<&'static Gpu, String> {
    let known = || ptx_vm::gpu::GPUS.iter().map(|g| g.key).collect::<Vec<_>>().join(", ");
    Gpu::named(key).ok_or_else(|| format!("no GPU {key}; known are {}", known()))
}

fn all_named(keys: &[String]) -> Result<Vec<&'static Gpu>, String> {
    keys.iter().map(|key| named(key)).collect()
}

fn show_counters(args: &Counters) -> Result<(), String> {
    let gpus = all_named(&args.gpu)?;
    let file = match &args.file {
        Some(file) => file.clone(),
        None => run_counted(args)?,
    };
    let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let rows = report::parse(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    print!("{}", report::table(&rows, &gpus));
    Ok(())
}

/// Runs the program on the VM; gives the file of its counters.
fn run_counted(args: &Counters) -> Result<PathBuf, String> {
    let folder = vm::stand_in()?;
    let file = folder.join("counters.json");
    let _ = fs::remove_file(&file);
    let (program, arguments) = args.program.split_first().expect("clap requires a file or a program");
    let mut command = Command::new(program);
    let status = vm::on_vm(command.args(arguments), &folder, &args.settings)
        .env("FERROTUNE_VM_COUNTERS", &file)
        .status()
        .map_err(|e| format!("{program}: {e}"))?;
    if !status.success() {
        eprintln!("{program}: {status}");
    }
    if file.exists() { Ok(file) } else { Err(format!("{program} launched no kernel on the VM")) }
}
