fn main() {
    let name = std::env::args().nth(1).unwrap_or("tiny".into());
    let c = trainer::bench::shape(&name).unwrap();
    println!("{:#}", trainer::bench::ppo_times(&c, model::Precision::INT8, 3).unwrap());
    println!("{:#}", trainer::bench::ppo_times(&c, model::Precision::F32, 3).unwrap());
    println!("{:#}", trainer::bench::generate_times(&c, 3).unwrap());
    println!("{:#}", trainer::bench::step_times(&c, 3).unwrap());
}
