//! Executes a kernel's PTX and prints what it did.
//!
//! ```console
//! $ cargo run -p softcuda --example counts
//! ```

use softcuda::{Class, Device, DeviceConfig, Launch, Module};

/// Each of 64 threads doubles a value of its own.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry double(.param .u64 data) {
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [data];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.b32 %r2, [%rd3];
    shl.b32 %r3, %r2, 1;
    st.global.b32 [%rd3], %r3;
    ret;
}";

#[allow(clippy::print_stdout, reason = "an example shows what it counted")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::new(DeviceConfig::default());
    device.set_sanitizer(true);
    let kernel = device.load(&Module::from_ptx(PTX)?)?.kernel("double").ok_or("the PTX has no kernel `double`")?;
    let data = device.alloc(4 * 64)?;
    device.write(data, &[21u32; 64].map(u32::to_le_bytes).concat())?;
    let launch = Launch { grid: [1, 1, 1], block: [64, 1, 1], dynamic_shared: 0, cooperative: false, early: false };
    let counters = device.launch(&kernel, &launch, &data.to_le_bytes())?;
    let mut first = [0; 4];
    device.read(data, &mut first)?;
    println!("21 doubled is {}", u32::from_le_bytes(first));
    println!("{} sectors read, {} instructions:", counters.global_load_sectors, counters.warp_instructions());
    for class in Class::ALL.into_iter().filter(|class| counters.class(*class) > 0) {
        println!("  {class:?}: {}", counters.class(class));
    }
    Ok(())
}
