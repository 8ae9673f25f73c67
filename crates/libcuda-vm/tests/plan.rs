//! The plan of a job against the same job run on the GPU kernels: memory to the byte.
mod common;

use common::client;
use device::Device;
use model::{LoraConfig, Precision, Target};
use trainer::{
    bench::neox,
    plan::{Job, Tuning},
};

fn job(precision: Precision, checkpointing: bool) -> Job {
    let lora = LoraConfig { rank: 4, targets: vec![Target::Query, Target::Value], ..LoraConfig::default() };
    // Once with all weights trained, once with adapters.
    let tuning =
        if precision == Precision::F32 { Tuning::Full } else { Tuning::Lora(precision, lora.clone()) };
    Job {
        model: neox(48, 2, 2, 96, 70, 64),
        precision,
        lora,
        sft: tuning.clone(),
        reward_model: Some(neox(32, 1, 2, 64, 70, 64)),
        reward: tuning,
        pairs: 1,
        prompt: 3,
        response: 5,
        batch: 4,
        mini_batch: 2,
        sequences: 3,
        micro_tokens: 16,
        checkpointing,
    }
}

#[test]
fn planned_peaks_are_measured_peaks() {
    client(
        "planned_peaks_are_measured_peaks",
        &[("FERROTUNE_VM_MEMORY", "256M"), ("FERROTUNE_VM_CHECKS", "memory")],
        || {
            for (precision, checkpointing) in [(Precision::F32, false), (Precision::INT8, true)] {
                let job = job(precision, checkpointing);
                let reward_model = job.reward_model.clone().unwrap();
                // A device each: a peak counts what is alive.
                let vm = || Device::cuda(0).unwrap();
                let measured = [
                    job.sft(&vm()).unwrap().exact,
                    job.reward(&vm(), &reward_model).unwrap().exact,
                    job.ppo(&vm()).unwrap().exact,
                ];
                let planned: Vec<usize> = job.stages().unwrap().iter().map(|s| s.exact).collect();
                assert_eq!(planned, measured, "{precision:?}");
                // The CPU's kernels have no workspaces: never more, and at this size not much less. (With more threads it
                // generates in more groups, each with a cache of its own.)
                cpu::set_threads(1);
                let on_cpu = job.ppo(&Device::cpu()).unwrap().exact;
                assert!(
                    on_cpu <= planned[2] && on_cpu as f64 > 0.5 * planned[2] as f64,
                    "{on_cpu} of {}",
                    planned[2]
                );
            }
        },
    );
}
