//! Modules: PTX that was read, and PTX that was placed on a device.

use crate::PtxError;
use crate::decode::{Functions, ModuleVariable, build, layout_variables};
use crate::pool::BlockPool;
use crate::program::{Handler, Instruction, Param, Program, RegisterCounts, Symbol};
use crate::ptx::ast::{Initialiser, Literal, Source, StateSpace, Type};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// A PTX module, read and decoded but not yet on a device.
pub struct Module {
    pub(crate) programs: Vec<Arc<Program>>,
    pub(crate) variables: Vec<ModuleVariable>,
    pub(crate) index: HashMap<String, usize>,
    /// Addresses of functions, by name.
    functions: HashMap<String, u64>,
    unknown: Vec<PtxError>,
    source: Arc<Source>,
}

impl Module {
    /// Reads PTX text. Every function is decoded, called or not, so a mistake is an error here. An instruction that softcuda does
    /// not know is none: it is a fault when it is executed, see [`Module::unknown_instructions`].
    ///
    /// # Errors
    /// [`PtxError`] with the first line that is wrong.
    pub fn from_ptx(text: &str) -> Result<Module, PtxError> {
        let (tree, source) = crate::ptx::parser::parse(text)?;
        let (variables, index) = layout_variables(&tree, &source)?;
        let functions = Functions::new(&tree, &source)?;
        let (mut programs, mut unknown) = (Vec::new(), BTreeMap::new());
        for function in &tree.functions {
            if function.body.is_none() {
                continue;
            }
            let program = build(&tree, &functions, &index, &source, function)?;
            for found in &program.unknown {
                unknown.entry(found.line).or_insert_with(|| source.error(found.line, &found.message));
            }
            if function.is_entry {
                programs.push(Arc::new(program));
            }
        }
        let unknown = unknown.into_values().collect();
        let functions = functions.addresses();
        let module = Module { programs, variables, index, functions, unknown, source };
        module.check_initialisers(&module.source)?;
        Ok(module)
    }

    /// The text that it was read from.
    pub fn text(&self) -> &str {
        self.source.text()
    }

    /// The names of the kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.programs.iter().map(|p| p.name.as_str())
    }

    /// The instructions that softcuda does not know, by line. Whoever executes one ends with
    /// [`FaultKind::UnknownInstruction`](crate::FaultKind::UnknownInstruction).
    pub fn unknown_instructions(&self) -> &[PtxError] {
        &self.unknown
    }

    fn check_initialisers(&self, source: &Source) -> Result<(), PtxError> {
        let zeros = vec![0; self.variables.len()];
        for known in &self.variables {
            self.contents(known, &zeros).map_err(|m| source.error(known.variable.line, m))?;
        }
        Ok(())
    }

    /// The first bytes of a variable; `addresses` are those of all variables.
    pub(crate) fn contents(&self, known: &ModuleVariable, addresses: &[u64]) -> Result<Vec<u8>, String> {
        let v = &known.variable;
        let mut out = Vec::new();
        if let Some(initialiser) = &v.initialiser {
            if v.space == StateSpace::Shared {
                return Err(format!("shared variable `{}` cannot be initialised", v.name));
            }
            self.flatten(initialiser, v.element, addresses, &mut out)?;
        }
        if out.len() > v.size {
            return Err(format!("`{}` has {} bytes and an initialiser of {}", v.name, v.size, out.len()));
        }
        Ok(out)
    }

    fn flatten(&self, item: &Initialiser, element: Type, addresses: &[u64], out: &mut Vec<u8>) -> Result<(), String> {
        let bits = match item {
            Initialiser::List(items) => {
                return items.iter().try_for_each(|i| self.flatten(i, element, addresses, out));
            }
            Initialiser::Symbol(name, offset) => {
                let variable = self.index.get(name).map(|&index| addresses[index]);
                let Some(address) = variable.or_else(|| self.functions.get(name).copied()) else {
                    return Err(format!("`{name}` is no variable and no function of this module"));
                };
                if element.bytes() != 8 {
                    return Err(format!("the address of `{name}` needs 8 bytes"));
                }
                address.wrapping_add_signed(*offset)
            }
            Initialiser::Literal(Literal::Integer(v)) => *v,
            Initialiser::Literal(Literal::Single(v)) if element.bytes() == 8 => (f32::from_bits(*v) as f64).to_bits(),
            Initialiser::Literal(Literal::Single(v)) => *v as u64,
            Initialiser::Literal(Literal::Double(v)) if element == Type::F32 => {
                (f64::from_bits(*v) as f32).to_bits() as u64
            }
            Initialiser::Literal(Literal::Double(v)) => *v,
        };
        let bytes = (bits as u128).to_le_bytes();
        out.extend_from_slice(&bytes[..element.bytes()]);
        Ok(())
    }
}

/// A module whose variables have places on a device. Cloning is cheap.
#[derive(Clone)]
pub struct LoadedModule {
    pub(crate) placed: Arc<Placed>,
}

/// What a [`LoadedModule`] holds.
pub(crate) struct Placed {
    programs: BTreeMap<String, Arc<Program>>,
    /// Those that somebody asked for: a module may have hundreds.
    kernels: Mutex<HashMap<String, Kernel>>,
    /// By variable of the module; 0 for shared ones.
    addresses: Vec<u64>,
    pub(crate) globals: BTreeMap<String, (u64, usize)>,
    /// Whether kernels run on AVX2.
    wide: bool,
}

impl LoadedModule {
    /// Of a module whose variables lie at these addresses.
    pub(crate) fn new(
        module: &Module,
        addresses: Vec<u64>,
        globals: BTreeMap<String, (u64, usize)>,
        wide: bool,
    ) -> LoadedModule {
        let programs = module.programs.iter().map(|program| (program.name.clone(), program.clone())).collect();
        LoadedModule { placed: Arc::new(Placed { programs, kernels: Mutex::default(), addresses, globals, wide }) }
    }

    /// The names of the kernels, in alphabetical order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.placed.programs.keys().map(String::as_str)
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<Kernel> {
        let program = self.placed.programs.get(name)?;
        let mut kernels = self.placed.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = kernels.get(name) {
            return Some(known.clone());
        }
        let kernel = place(program, &self.placed.addresses, &self.placed.globals, self.placed.wide);
        kernels.insert(name.to_owned(), kernel.clone());
        Some(kernel)
    }

    /// The device address and size in bytes of a `.global` or `.const` variable.
    pub fn global(&self, name: &str) -> Option<(u64, usize)> {
        self.placed.globals.get(name).copied()
    }
}

/// A kernel that can be launched on the device that loaded it. Cloning is cheap.
#[derive(Clone)]
pub struct Kernel {
    pub(crate) inner: Arc<KernelInner>,
}

pub(crate) struct KernelInner {
    /// With addresses of variables filled in.
    pub(crate) program: Program,
    pub(crate) code: Vec<Instruction>,
    pub(crate) pool: BlockPool,
}

impl Kernel {
    /// The kernel's name in the PTX.
    pub fn name(&self) -> &str {
        &self.inner.program.name
    }

    /// Where each parameter lies in the packed parameter space.
    pub fn param_layout(&self) -> &[Param] {
        &self.inner.program.params
    }

    /// Bytes of the packed parameter space.
    pub fn param_bytes(&self) -> usize {
        self.inner.program.param_bytes
    }

    /// Bytes of shared memory that the kernel declares, without the dynamic part.
    pub fn static_shared_bytes(&self) -> u32 {
        self.inner.program.static_shared
    }

    /// Bytes of local memory per thread.
    pub fn local_bytes(&self) -> u32 {
        self.inner.program.local_bytes
    }

    /// The most threads a block may have: `.maxntid` where given, at most 1024.
    pub fn max_threads(&self) -> u32 {
        self.inner.program.max_threads.unwrap_or(1024).min(1024)
    }

    /// PTX registers that the kernel uses, by class.
    pub fn registers(&self) -> RegisterCounts {
        self.inner.program.registers
    }
}

/// Places a program: the handlers for this CPU, the addresses of variables.
fn place(program: &Program, addresses: &[u64], globals: &BTreeMap<String, (u64, usize)>, wide: bool) -> Kernel {
    let pick = |h: &crate::program::Handlers| -> Handler { if wide { h.wide } else { h.portable } };
    let code =
        program.code.iter().zip(&program.handlers).map(|(ins, h)| Instruction { handler: pick(h), ..*ins }).collect();
    let mut placed = program.without_code();
    placed.symbols.extend(globals.iter().map(|(name, &(start, bytes))| Symbol {
        name: name.clone(),
        shared: false,
        start,
        end: start + bytes as u64,
    }));
    for constant in &mut placed.constants {
        if let Some(variable) = constant.variable {
            constant.value = (constant.value as u64).wrapping_add(addresses[variable]) as u128;
        }
    }
    Kernel { inner: Arc::new(KernelInner { program: placed, code, pool: BlockPool::default() }) }
}
