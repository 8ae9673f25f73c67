//! Fine-tunes a small random model with LoRA on one sentence.
use ferrotune::{autograd::Grads, device::Device, lm, model, optimizer, supervised};

fn main() -> Result<(), ferrotune::error::Error> {
    let mut model = supervised::tiny_model(&Device::cpu(), 64, 0);
    model.attach_lora(&model::LoraConfig::default(), 0);
    model.train_adapters();
    let sentence = lm::Example::whole(vec![5, 9, 2, 7, 1, 3]);
    let (mut adam, mut grads) = (optimizer::Optimizer::new(&model.params, Default::default()), Grads::new());
    for step in 0..20 {
        let (nll, n) = lm::loss(&model, &[&sentence], Default::default(), Some((&mut grads, 0.2)))?;
        adam.step(&mut model.params, &mut grads, 1e-2, 1.0)?;
        println!("step {step}: loss {:.3}", nll / n as f64);
    }
    Ok(())
}
