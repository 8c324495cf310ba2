//! Launches as phases of one kernel: what each computes is as if they were launched.

use ferrowarp::{
    gguf::TensorType,
    gpu::{
        Buffer, Gpu, GpuError,
        kernels::{ArgmaxScratch, Gemv},
    },
};

use crate::support::*;

/// Products that wait for each other, two of them beside each other, over a few widths.
struct Chain {
    matrices: Vec<ferrowarp::gpu::Weights>,
    x: [Buffer<f32>; 2],
    norm: Buffer<f32>,
    token: Output<u32>,
    scratch: ArgmaxScratch,
}

const N: usize = 320;

impl Chain {
    fn new(gpu: &Gpu, random: &mut Random, n: usize) -> Chain {
        let matrices = (0..n).map(|_| weights(gpu, random, TensorType::F16, N, N).0).collect();
        let mut vector = || gpu.upload("x", &random.values(N, 1.0)).unwrap();
        let (x, norm) = ([vector(), vector()], vector());
        Chain { matrices, x, norm, token: Output::new(gpu, 1), scratch: ArgmaxScratch::new(gpu, 1).unwrap() }
    }

    fn run(&self, gpu: &Gpu) -> Result<(), GpuError> {
        for (index, matrix) in self.matrices.iter().enumerate() {
            let (x, out) = (&self.x[index % 2], &self.x[(index + 1) % 2]);
            let norm = Some((&*self.norm, 1e-6));
            // Halves that need not wait for each other, each of part of the rows; then they add to what was there.
            for rows in [0..N / 2, N / 2..N] {
                let out = out.slice(rows.clone());
                gpu.gemv(&Gemv { norm, residual: Some(&out), ..Gemv::new(matrix.rows(rows), x, &out) })?;
            }
        }
        let logits = &self.x[self.matrices.len() % 2];
        gpu.argmax(&self.scratch, logits, &self.token, None, 1, N, N)
    }
}

#[test]
fn a_program_gives_what_its_launches_would_each_time() {
    let gpu = gpu();
    let chain = Chain::new(&gpu, &mut Random::new(), 7);
    let start: Vec<Vec<f32>> = chain.x.iter().map(|x| gpu.read(x).unwrap()).collect();
    let program = gpu.record(|| chain.run(&gpu)).unwrap();
    let words = gpu.upload("the program", &program.words).unwrap();
    let counter = gpu.upload("the counter", &[0]).unwrap();
    let read = || chain.x.iter().flat_map(|x| gpu.read(x).unwrap()).collect::<Vec<f32>>();
    for repetition in 0..3 {
        // SAFETY: the program was recorded for these residents, its operands are alive, the counter is zero.
        unsafe { gpu.persistent(&words, &counter, program.residents).unwrap() };
        let (got, token) = (read(), chain.token.read(&gpu));
        assert_eq!(gpu.read(&counter).unwrap(), [0], "the counter is zero again");
        for (x, start) in chain.x.iter().zip(&start) {
            gpu.write(x, start).unwrap();
        }
        chain.run(&gpu).unwrap();
        let want: Vec<f64> = as_f64(&read());
        assert_close("the chain", &got, &want, 1e-3, 1e-4);
        assert_eq!(token, chain.token.read(&gpu), "repetition {repetition}");
        for (x, start) in chain.x.iter().zip(&start) {
            gpu.write(x, start).unwrap();
        }
    }
}

#[test]
fn a_launch_that_is_no_phase_is_named() {
    let gpu = gpu();
    let x = gpu.upload("x", &[1.0f32; 64]).unwrap();
    let Err(error) = gpu.record(|| gpu.rmsnorm(&x, &x, &x, 1, 1e-6)) else {
        panic!("a norm of its own is no phase");
    };
    assert_eq!(error.to_string(), "persistent decoding has nothing for the kernel `rmsnorm`: use --decode graph");
    // The recording has ended.
    gpu.rmsnorm(&x, &x, &x, 1, 1e-6).unwrap();
    gpu.synchronise().unwrap();
}
