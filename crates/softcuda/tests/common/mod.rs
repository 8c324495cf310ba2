//! What the test files share: a kernel around some instructions, run on known lanes.
#![allow(dead_code, reason = "each test file uses some of it")]

use softcuda::{Counters, Device, DeviceConfig, Fault, Kernel, Launch, Module};

/// The first lines of every module.
pub const HEADER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// A device for tests: little memory, a limit that ends endless loops soon.
pub fn device(threads: usize, wide: bool) -> Device {
    Device::new(DeviceConfig {
        total_memory: 1 << 28,
        threads,
        instruction_limit: 2_000_000,
        wide,
        ..DeviceConfig::default()
    })
}

/// Loads the only kernel of a module.
pub fn kernel(device: &Device, ptx: &str) -> Kernel {
    let module = Module::from_ptx(ptx).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let name = module.kernels().next().expect("a kernel").to_owned();
    device.load(&module).expect("loads").kernel(&name).expect("the kernel")
}

pub fn launch(grid: u32, block: u32) -> Launch {
    Launch { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared: 0, cooperative: false, early: false }
}

/// Addresses as packed parameters.
pub fn pack(params: &[u64]) -> Vec<u8> {
    params.iter().flat_map(|p| p.to_le_bytes()).collect()
}

pub fn upload<T: bytemuck_like::Plain>(device: &Device, values: &[T]) -> u64 {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.bytes()).collect();
    let address = device.alloc(bytes.len()).expect("memory");
    device.write(address, &bytes).expect("write");
    address
}

pub fn download<T: bytemuck_like::Plain>(device: &Device, address: u64, count: usize) -> Vec<T> {
    let mut bytes = vec![0; count * size_of::<T>()];
    device.read(address, &mut bytes).expect("read");
    bytes.chunks_exact(size_of::<T>()).map(T::from_bytes).collect()
}

/// Numbers that are bytes.
pub mod bytemuck_like {
    pub trait Plain: Copy {
        fn bytes(&self) -> Vec<u8>;
        fn from_bytes(bytes: &[u8]) -> Self;
    }
    macro_rules! plain {
        ($($t:ty)*) => { $(
            impl Plain for $t {
                fn bytes(&self) -> Vec<u8> { self.to_le_bytes().to_vec() }
                fn from_bytes(bytes: &[u8]) -> $t { <$t>::from_le_bytes(bytes.try_into().unwrap()) }
            }
        )* };
    }
    plain!(u8 u16 i16 u32 i32 u64 i64 f32 f64);
}

/// The registers that the bodies given to [`lanes`] may use besides their operands.
pub const SCRATCH: &str = "    .reg .pred %p<16>;
    .reg .b16 %h<32>;
    .reg .b32 %r<64>;
    .reg .b64 %d<64>;
";

/// Runs `body` on one warp: `inputs` are rows of 32 64-bit values, the first loaded into `%x0`, the next into `%x1` and
/// so on; the body leaves results in `%y0`… (64-bit), of which `outputs` rows are returned.
pub fn lanes_on(device: &Device, body: &str, inputs: &[[u64; 32]], outputs: usize) -> Result<Vec<[u64; 32]>, Fault> {
    let ptx = lanes_ptx(body, inputs.len(), outputs);
    let flat: Vec<u64> = inputs.iter().flatten().copied().collect();
    let input = upload(device, if flat.is_empty() { &[0] } else { &flat });
    let output = upload(device, &vec![0u64; 32 * outputs.max(1)]);
    let kernel = kernel(device, &ptx);
    device.launch(&kernel, &launch(1, 32), &pack(&[input, output]))?;
    let flat = download::<u64>(device, output, 32 * outputs);
    Ok(flat.chunks_exact(32).map(|row| row.try_into().unwrap()).collect())
}

pub fn lanes_ptx(body: &str, inputs: usize, outputs: usize) -> String {
    let mut ptx = format!(
        "{HEADER}.visible .entry lanes(.param .u64 input, .param .u64 output) {{\n{SCRATCH}
    .reg .b64 %x<{}>;
    .reg .b64 %y<{}>;
    .reg .b64 %in, %out, %lane8;
    .reg .b32 %lane;
    ld.param.u64 %in, [input];
    ld.param.u64 %out, [output];
    mov.u32 %lane, %laneid;
    mul.wide.u32 %lane8, %lane, 8;
    add.u64 %in, %in, %lane8;
    add.u64 %out, %out, %lane8;\n",
        inputs.max(1),
        outputs.max(1)
    );
    for i in 0..inputs {
        ptx += &format!("    ld.global.u64 %x{i}, [%in+{}];\n", i * 256);
    }
    ptx += body;
    ptx += "\n";
    for i in 0..outputs {
        ptx += &format!("    st.global.u64 [%out+{}], %y{i};\n", i * 256);
    }
    ptx + "    ret;\n}\n"
}

/// [`lanes_on`] with a device of its own; panics on a fault.
pub fn lanes(body: &str, inputs: &[[u64; 32]], outputs: usize) -> Vec<[u64; 32]> {
    lanes_on(&device(1, true), body, inputs, outputs).unwrap_or_else(|f| panic!("{f}"))
}

/// One launch of a module's only kernel on a device of its own, with buffers for parameters.
pub fn run(
    ptx: &str,
    launch: Launch,
    buffers: &[Vec<u32>],
    sanitizer: bool,
) -> Result<(Vec<Vec<u32>>, Counters), Fault> {
    let device = device(1, true);
    let addresses: Vec<u64> = buffers.iter().map(|b| upload(&device, b)).collect();
    device.set_sanitizer(sanitizer);
    let kernel = kernel(&device, ptx);
    let counters = device.launch(&kernel, &launch, &pack(&addresses))?;
    let out = addresses.iter().zip(buffers).map(|(&a, b)| download(&device, a, b.len())).collect();
    Ok((out, counters))
}
