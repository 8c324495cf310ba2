//! The kernels that a PTX text holds.

/// A kernel of an image: a `.entry` of its PTX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The size in bytes of each parameter.
    pub sizes: Vec<usize>,
}

/// How a kernel is launched, for the assembler to keep its registers within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most threads that a block has.
    pub threads: u32,
    /// Blocks that shall fit a multiprocessor together.
    pub blocks: u32,
}

/// What `#[kernel(threads = 128, blocks = 3)]` leaves in the body of the entry: a comment, the numbers behind it.
const MARK: &str = "// kernel bounds: ";

/// The text with the bounds of those kernels that state any: `.maxntid` and `.minnctapersm` between an entry's parameters and
/// its body, where rustc has no way to put them. `change` has the last word on them, by the kernel's name.
pub fn with_bounds(ptx: &str, change: impl Fn(&str, Bounds) -> Bounds) -> String {
    let mut bounded = String::with_capacity(ptx.len());
    for (index, definition) in ptx.split(".entry ").enumerate() {
        if index > 0 {
            bounded += ".entry ";
        }
        let name = definition.split('(').next().unwrap_or_default().trim();
        match (stated(definition), definition.split_once(')')) {
            (Some(bounds), Some((parameters, body))) if index > 0 => {
                let Bounds { threads, blocks } = change(name, bounds);
                bounded += &format!("{parameters})\n.maxntid {threads}, 1, 1\n.minnctapersm {blocks}{body}");
            }
            _ => bounded += definition,
        }
    }
    bounded
}

/// What a parameter of the type `TensorMap` leaves there: the parameter's number behind it.
const MAP: &str = "// kernel tensor map: ";

/// The text with tensor maps as parameters: rustc has been told of an address, and reads that; what is declared are the 128 bytes
/// themselves, and read is where they are.
///
/// # Errors
/// Such a parameter is read in another way than rustc is known to.
pub fn with_tensor_maps(ptx: &str) -> Result<String, String> {
    let mut out = String::with_capacity(ptx.len());
    for (index, definition) in ptx.split(".entry ").enumerate() {
        if index > 0 {
            out += ".entry ";
        }
        let name = definition.split('(').next().unwrap_or_default().trim();
        let maps: Vec<String> = definition
            .split(MAP)
            .skip(1)
            .filter_map(|rest| rest.lines().next())
            .map(str::trim)
            .map(|number| format!("{name}_param_{number}"))
            .collect();
        if maps.is_empty() || index == 0 {
            out += definition;
            continue;
        }
        for line in definition.split_inclusive('\n') {
            let words =
                || line.split(|c: char| c.is_whitespace() || ",;[+]".contains(c)).filter(|word| !word.is_empty());
            let Some(map) = maps.iter().find(|map| words().any(|word| word == *map)) else {
                out += line;
                continue;
            };
            match words().collect::<Vec<_>>()[..] {
                [".param", ".u64" | ".b64", _] => {
                    let comma = if line.contains(',') { "," } else { "" };
                    out += &format!("\t.param .align 64 .b8 {map}[128]{comma}\n");
                }
                ["ld.param.u64" | "ld.param.b64", register, _] if line.contains(&format!("[{map}]")) => {
                    out += &format!("\tmov.b64 \t{register}, {map};\n\tcvta.param.u64 \t{register}, {register};\n");
                }
                _ => return Err(format!("the tensor map {map} is read by `{}`; expected `ld.param.b64`", line.trim())),
            }
        }
    }
    Ok(out)
}

/// The bounds that an entry's text states.
fn stated(definition: &str) -> Option<Bounds> {
    let (_, rest) = definition.split_once(MARK)?;
    let mut numbers = rest.lines().next()?.split_whitespace().map(str::parse);
    Some(Bounds { threads: numbers.next()?.ok()?, blocks: numbers.next()?.ok()? })
}

/// Reads `.entry NAME( .param .u64 .ptr .align 1 NAME_param_0, … )` for every entry.
pub fn read(ptx: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for definition in ptx.split(".entry ").skip(1) {
        let Some((name, rest)) = definition.split_once('(') else {
            continue;
        };
        let Some((parameters, _)) = rest.split_once(')') else {
            continue;
        };
        let sizes = parameters.split(',').filter_map(parameter_size).collect();
        entries.push(Entry { name: name.trim().to_owned(), sizes });
    }
    entries
}

/// `.u64 .ptr .align 1 NAME` has 8 bytes, `.align 4 .b8 NAME[12]` has 12.
fn parameter_size(parameter: &str) -> Option<usize> {
    let bits = parameter.split_whitespace().find_map(|word| {
        let kind = word.strip_prefix('.')?;
        kind.strip_prefix(['u', 's', 'b', 'f'])?.parse::<usize>().ok()
    })?;
    let count = parameter.split_once('[').and_then(|(_, rest)| rest.split(']').next()?.trim().parse().ok());
    Some(bits / 8 * count.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "
.visible .entry scale(
	.param .u64 .ptr .align 1 scale_param_0,
	.param .b32 scale_param_1
)
{
	// begin inline asm
	// kernel bounds: 64 3
	// end inline asm
	ret;
}
.visible .entry nothing()
{
	ret;
}
.visible .entry structure(
	.param .align 4 .b8 structure_param_0[12]
)
{
	ret;
}";

    #[test]
    fn entries_are_read_with_their_parameters() {
        let entry = |name: &str, sizes: &[usize]| Entry { name: name.into(), sizes: sizes.into() };
        assert_eq!(read(PTX), [entry("scale", &[8, 4]), entry("nothing", &[]), entry("structure", &[12])]);
        assert_eq!(read("// no kernel\n"), []);
    }

    #[test]
    fn tensor_maps_are_declared_whole_and_their_address_is_read() {
        let text = "
.visible .entry copy(
	.param .u64 copy_param_0,
	.param .u64 copy_param_1,
	.param .u64 copy_param_10
)
{
	// begin inline asm
	// kernel tensor map: 1
	// end inline asm
	ld.param.b64 	%rd1, [copy_param_1];
	ld.param.b64 	%rd2, [copy_param_10];
	ret;
}
.visible .entry other(
	.param .u64 copy_param_1
)
{
	ret;
}";
        let want =
            text.replacen("\t.param .u64 copy_param_1,", "\t.param .align 64 .b8 copy_param_1[128],", 1).replace(
                "ld.param.b64 \t%rd1, [copy_param_1];",
                "mov.b64 \t%rd1, copy_param_1;\n\tcvta.param.u64 \t%rd1, %rd1;",
            );
        assert_eq!(with_tensor_maps(text).as_deref(), Ok(want.as_str()));
        assert_eq!(read(&want)[0].sizes, [8, 128, 8]);
        let odd = text.replace("[copy_param_1]", "[copy_param_1+4]");
        assert_eq!(with_tensor_maps(PTX).as_deref(), Ok(PTX));
        assert!(with_tensor_maps(&odd).is_err_and(|problem| problem.contains("copy_param_1 is read by")));
    }

    #[test]
    fn bounds_go_between_the_parameters_and_the_body() {
        let want = |blocks: u32| {
            PTX.replace("_param_1\n)\n", &format!("_param_1\n)\n.maxntid 64, 1, 1\n.minnctapersm {blocks}\n"))
        };
        assert_eq!(with_bounds(PTX, |_, bounds| bounds), want(3));
        let fewer = |name: &str, bounds| Bounds { blocks: if name == "scale" { 1 } else { 7 }, ..bounds };
        assert_eq!(with_bounds(PTX, fewer), want(1));
        let unbounded = PTX.replace("// kernel", "// other");
        assert_eq!(with_bounds(&unbounded, |_, bounds| bounds), unbounded);
    }
}
