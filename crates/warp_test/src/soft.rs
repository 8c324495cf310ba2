//! A device on softcuda: of its own for every test, its sanitizer on.

use std::cell::RefCell;
use std::collections::HashMap;

use cuda_std::tensor_map::Descriptor;
use cuda_std::{Image, Packed};
use softcuda::{Counters, DeviceConfig, Element, Fault, LoadedModule, Module, TensorMap};

use crate::{Error, Launch, Tiles};

pub struct Soft {
    device: softcuda::Device,
    /// By the address of the image's text.
    modules: RefCell<HashMap<usize, LoadedModule>>,
}

impl Soft {
    pub fn new() -> Soft {
        let device = softcuda::Device::new(DeviceConfig::default());
        device.set_sanitizer(true);
        Soft { device, modules: RefCell::default() }
    }

    pub fn set_sanitizer(&self, on: bool) {
        self.device.set_sanitizer(on);
    }

    pub fn alloc(&self, bytes: usize) -> Result<u64, Fault> {
        self.device.alloc(bytes)
    }

    pub fn free(&self, address: u64) -> Result<(), Fault> {
        self.device.free(address)
    }

    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.device.write(address, bytes)
    }

    /// Reads what somebody wrote: a byte that nobody did is a fault.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.device.read(address, bytes)
    }

    /// What was never freed, under the sanitizer.
    pub fn leaked(&self) -> Vec<String> {
        let live = if self.device.sanitizer() { self.device.live() } else { Vec::new() };
        live.iter().map(|live| format!("{} bytes, buffer {} of the test", live.bytes, live.number)).collect()
    }

    pub fn launch(&self, image: Image, name: &str, launch: Launch, arguments: &Packed) -> Result<Counters, Error> {
        let kernel = self.module(image)?.kernel(name);
        let kernel = kernel.ok_or_else(|| Error::NoKernel { kernel: name.into(), image: image.crate_name.into() })?;
        let layout = kernel.param_layout();
        if layout.len() != arguments.count() {
            return Err(Error::Parameters { kernel: name.into(), found: layout.len(), expected: arguments.count() });
        }
        let mut parameters = vec![0; kernel.param_bytes()];
        for (index, parameter) in layout.iter().enumerate() {
            let bytes = arguments.bytes(index);
            let Some(bytes) = bytes.get(..parameter.size) else {
                let problem =
                    format!("parameter {index} of `{name}` has {} bytes, its argument {}", parameter.size, bytes.len());
                return Err(Error::Image { image: image.crate_name.into(), problem });
            };
            parameters[parameter.offset..][..bytes.len()].copy_from_slice(bytes);
        }
        let cluster = launch.cluster;
        let launch = softcuda::Launch {
            grid: launch.grid,
            block: launch.block,
            dynamic_shared: launch.shared_bytes,
            cooperative: launch.cooperative,
            early: false,
        };
        Ok(match cluster {
            Some(cluster) => self.device.launch_clusters(&kernel, &launch, cluster, &parameters)?,
            None => self.device.launch(&kernel, &launch, &parameters)?,
        })
    }

    /// Loads an image when it is first asked for.
    fn module(&self, image: Image) -> Result<LoadedModule, Error> {
        let key = image.ptx.as_ptr() as usize;
        if let Some(module) = self.modules.borrow().get(&key) {
            return Ok(module.clone());
        }
        let module = Module::from_ptx(image.ptx)
            .map_err(|error| Error::Image { image: image.crate_name.into(), problem: error.to_string() })?;
        let module = self.device.load(&module)?;
        self.modules.borrow_mut().insert(key, module.clone());
        Ok(module)
    }
}

/// A tensor map as softcuda's driver makes it.
pub fn tensor_map(
    element: u32,
    address: u64,
    tiles: &Tiles,
    strides: &[u64],
    steps: &[u32],
) -> Result<Descriptor, Error> {
    let element =
        Element::from_number(element).ok_or_else(|| Error::TensorMap(format!("elements of type {element}")))?;
    let (sizes, tile, swizzle) = (&tiles.sizes, &tiles.tile, tiles.swizzle as u8);
    let map = TensorMap::tiled(element, address, sizes, strides, tile, steps, swizzle, tiles.fill_nan);
    Ok(Descriptor(bytemuck::cast(map.map_err(Error::TensorMap)?.pack())))
}
