//! No kernel goes untested.

use ferrowarp::gpu::image::KERNELS;

use crate::support::{gpu, launched_file};

#[test]
#[ignore = "reads what a run of all the others wrote"]
fn every_registered_kernel_was_launched() {
    let file = launched_file().expect("FERROWARP_LAUNCHED names the file that the other tests wrote");
    let launched = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let launched: Vec<&str> = launched.lines().collect();
    let image = gpu().image();
    let all: Vec<&str> = KERNELS.iter().copied().filter(|name| !image.is_empty(name)).collect();
    let missing: Vec<&&str> = all.iter().filter(|name| !launched.contains(name)).collect();
    assert!(missing.is_empty(), "{} of {} kernels were never launched: {missing:?}", missing.len(), all.len());
    println!("{} kernels launched", all.len());
}
