//! Modules: PTX that was read, and PTX that was placed on a device.

use crate::PtxError;
use crate::decode::{Functions, ModuleVariable, build, layout_variables};
use crate::pool::BlockPool;
use crate::program::{Handler, Instruction, Param, Program, RegisterCounts, Symbol};
use crate::ptx::ast::{Body, Function, Initialiser, Literal, ModuleText as Tree, Source, StateSpace, Type};
use crate::ptx::lexer::Bodies;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock};

/// A PTX module, read but not yet on a device. Cloning is cheap.
#[derive(Clone)]
pub struct Module {
    pub(crate) text: Arc<ModuleText>,
}

/// What a [`Module`] holds.
pub(crate) struct ModuleText {
    tree: Tree,
    source: Arc<Source>,
    pub(crate) variables: Vec<ModuleVariable>,
    index: HashMap<String, usize>,
    /// Addresses of functions, by name.
    functions: HashMap<String, u64>,
    /// In the order of the text.
    entries: Vec<Entry>,
    /// By name.
    entry_index: HashMap<String, usize>,
    /// With every function read, for the kernels that need others.
    whole: OnceLock<Result<Module, PtxError>>,
    unknown: OnceLock<Vec<PtxError>>,
}

/// A kernel of a module.
struct Entry {
    name: String,
    /// Index of its function.
    function: usize,
    program: OnceLock<Result<Arc<Program>, PtxError>>,
}

impl Module {
    /// Reads PTX text. Every function is decoded, called or not, so a mistake is an error here. An instruction that softcuda does
    /// not know is none: it is a fault when it is executed, see [`Module::unknown_instructions`].
    ///
    /// # Errors
    /// [`PtxError`] with the first line that is wrong.
    pub fn from_ptx(text: &str) -> Result<Module, PtxError> {
        let module = Module::read(text.to_owned().into(), Bodies::Read)?;
        let mut unknown = BTreeMap::new();
        let functions = Functions::new(&module.text.tree, &module.text.source)?;
        for (index, function) in module.text.tree.functions.iter().enumerate() {
            if function.body.is_none() {
                continue;
            }
            let program = Arc::new(module.text.build(&functions, function)?);
            module.text.note_unknown(&program, &mut unknown);
            if let Some(entry) = module.text.entries.iter().find(|entry| entry.function == index) {
                let _ = entry.program.set(Ok(program));
            }
        }
        let _ = module.text.unknown.set(unknown.into_values().collect());
        Ok(module)
    }

    /// Reads PTX text as far as is needed to tell what is in it: a kernel is read when [`LoadedModule::read_kernel`] asks for it. So a module of
    /// hundreds of kernels is there at once. What is wrong outside of kernels is an error here.
    ///
    /// # Errors
    /// As [`Module::from_ptx`].
    pub fn deferred(text: &str) -> Result<Module, PtxError> {
        Module::deferred_from(text.to_owned())
    }

    /// As [`Module::deferred`], of a text that need not be copied.
    ///
    /// # Errors
    /// As [`Module::from_ptx`].
    pub fn deferred_from(text: impl Into<Cow<'static, str>>) -> Result<Module, PtxError> {
        Module::read(text.into(), Bodies::Deferred)
    }

    fn read(text: Cow<'static, str>, bodies: Bodies) -> Result<Module, PtxError> {
        let (tree, source) = crate::ptx::parser::parse(text, bodies)?;
        let (variables, index) = layout_variables(&tree, &source)?;
        let functions = Functions::new(&tree, &source)?.addresses();
        let is_kernel = |function: &Function| function.is_entry && function.body.is_some();
        let kernels = tree.functions.iter().enumerate().filter(|(_, function)| is_kernel(function));
        let entries: Vec<Entry> = kernels
            .map(|(index, function)| Entry { name: function.name.clone(), function: index, program: OnceLock::new() })
            .collect();
        let entry_index = entries.iter().enumerate().map(|(index, entry)| (entry.name.clone(), index)).collect();
        let (whole, unknown) = (OnceLock::new(), OnceLock::new());
        let text = ModuleText { tree, source, variables, index, functions, entries, entry_index, whole, unknown };
        text.check_initialisers()?;
        Ok(Module { text: Arc::new(text) })
    }

    /// The text that it was read from.
    pub fn text(&self) -> &str {
        self.text.source.text()
    }

    /// The names of the kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.text.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The instructions that softcuda does not know, by line. Whoever executes one ends with
    /// [`FaultKind::UnknownInstruction`](crate::FaultKind::UnknownInstruction). Kernels that were not read are read now; one that is wrong is left
    /// out.
    pub fn unknown_instructions(&self) -> &[PtxError] {
        self.text.unknown.get_or_init(|| {
            let mut unknown = BTreeMap::new();
            for program in self.kernels().filter_map(|name| self.text.program(name)?.ok()) {
                self.text.note_unknown(&program, &mut unknown);
            }
            unknown.into_values().collect()
        })
    }
}

impl ModuleText {
    /// A kernel of that name, if there is one.
    pub(crate) fn program(&self, name: &str) -> Option<Result<Arc<Program>, PtxError>> {
        let entry = &self.entries[*self.entry_index.get(name)?];
        Some(entry.program.get_or_init(|| self.read_entry(entry)).clone())
    }

    /// Whether some kernel allocates memory. Of a kernel that was not read it is enough that it could.
    pub(crate) fn uses_heap(&self) -> bool {
        let is_declared =
            || self.tree.functions.iter().any(|function| matches!(function.name.as_str(), "malloc" | "free"));
        self.entries.iter().any(|entry| match entry.program.get() {
            Some(program) => program.as_ref().is_ok_and(|program| program.uses_heap),
            None => is_declared(),
        })
    }

    fn read_entry(&self, entry: &Entry) -> Result<Arc<Program>, PtxError> {
        let function = &self.tree.functions[entry.function];
        let Some(Body::Deferred(body)) = &function.body else {
            unreachable!("what was not deferred has been decoded");
        };
        let statements = crate::ptx::parser::parse_body(body, &self.source)?;
        let functions = Functions::new(&self.tree, &self.source)?;
        // What calls functions, or takes the address of one, depends on what else is in the text.
        if functions.are_named_in(&statements) {
            let whole =
                self.whole.get_or_init(|| Module::from_ptx(self.source.text())).as_ref().map_err(Clone::clone)?;
            return whole.text.program(&entry.name).expect("the same text has the same kernels");
        }
        let function = Function { body: Some(Body::Read(statements)), ..function.clone() };
        self.build(&functions, &function).map(Arc::new)
    }

    fn build(&self, functions: &Functions, function: &Function) -> Result<Program, PtxError> {
        build(&self.tree, functions, &self.index, &self.source, function)
    }

    fn note_unknown(&self, program: &Program, unknown: &mut BTreeMap<u32, PtxError>) {
        for found in &program.unknown {
            unknown.entry(found.line).or_insert_with(|| self.source.error(found.line, &found.message));
        }
    }

    fn check_initialisers(&self) -> Result<(), PtxError> {
        let zeros = vec![0; self.variables.len()];
        for known in &self.variables {
            self.contents(known, &zeros).map_err(|m| self.source.error(known.variable.line, m))?;
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
    text: Arc<ModuleText>,
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
        let text = Arc::clone(&module.text);
        LoadedModule { placed: Arc::new(Placed { text, kernels: Mutex::default(), addresses, globals, wide }) }
    }

    /// The names of the kernels, in alphabetical order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self.placed.text.entries.iter().map(|entry| entry.name.as_str()).collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// The kernel of that name. None also where a kernel of a [deferred](Module::deferred) module is wrong: [`Self::read_kernel`] says how.
    pub fn kernel(&self, name: &str) -> Option<Kernel> {
        self.read_kernel(name).ok().flatten()
    }

    /// The kernel of that name, which is read if it was not.
    ///
    /// # Errors
    /// It was not read before, and is wrong.
    pub fn read_kernel(&self, name: &str) -> Result<Option<Kernel>, PtxError> {
        let mut kernels = self.placed.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = kernels.get(name) {
            return Ok(Some(known.clone()));
        }
        let Some(program) = self.placed.text.program(name).transpose()? else { return Ok(None) };
        let kernel = place(&program, &self.placed.addresses, &self.placed.globals, self.placed.wide);
        kernels.insert(name.to_owned(), kernel.clone());
        Ok(Some(kernel))
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
