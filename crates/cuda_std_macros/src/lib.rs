//! The `#[kernel]` attribute of `cuda_std`, and `#[gpu_test]` of `warp_test`.
//!
//! One function definition has two readings. Compiled for `nvptx64-nvidia-cuda` it is a PTX entry point. Compiled for
//! the host it is a constant of type `cuda_std::Kernel<(P1, P2, …)>`: the entry's name and its parameter types, which
//! is all that a launch needs and enough for the compiler to reject a launch with other arguments. The body is still
//! type-checked on the host, so an editor and clippy see it, but no code is made from it.

mod gpu_test;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{FnArg, Ident, ItemFn, LitInt, Pat, PatIdent, ReturnType, Token, Type, parse_macro_input, parse_quote};

/// Marks `pub unsafe fn name(parameters) { … }` as a GPU kernel.
///
/// Parameters are integers of 8 to 64 bits, `f32`, `f64`, `F16`, `BF16`, pointers `*const T` and `*mut T`, and slices `&[T]`,
/// `*const [T]` and `*mut [T]`, and tensor maps, `TensorMap`; another type is an error at that parameter. A kernel returns nothing, has no generics (stamp variants out
/// with `macro_rules!`) and is `unsafe`, because it trusts its launch contract; its `# Safety` section states that contract.
///
/// A slice is two parameters of the PTX, its address and its number of elements. A tensor map is 128 bytes at a multiple of 64, which
/// the builder declares; the kernel has their address.
///
/// `#[kernel(threads = 128, blocks = 3)]` promises blocks of at most 128 threads and asks for so few registers that three of
/// them fit a multiprocessor: PTX's `.maxntid` and `.minnctapersm`, which the builder writes.
///
/// In a crate whose build script is `cuda_builder::build_kernels()` the handle holds the image that the kernel is in.
#[proc_macro_attribute]
pub fn kernel(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    let bounds = if attribute.is_empty() { None } else { Some(parse_macro_input!(attribute as Bounds)) };
    expand(&function, bounds).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Runs a function as two tests: on softcuda under its sanitizer, and on the GPU where there is one.
///
/// ```ignore
/// #[gpu_test(scale)]
/// fn scale_multiplies(device: &Device) { … }
/// ```
///
/// is reported as `scale_multiplies::soft` and `scale_multiplies::cuda`; the latter as ignored, with the reason, where this was
/// compiled on a machine without an NVIDIA GPU. Either fails where a kernel that the attribute names was not launched.
///
/// Other attributes of the function (`#[ignore]`, `#[should_panic]`) are the tests'.
#[proc_macro_attribute]
pub fn gpu_test(attribute: TokenStream, item: TokenStream) -> TokenStream {
    gpu_test::expand(attribute.into(), item.into()).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// `threads = 128, blocks = 3`.
struct Bounds {
    threads: LitInt,
    blocks: LitInt,
}

impl Parse for Bounds {
    fn parse(input: ParseStream) -> syn::Result<Bounds> {
        let field = |name: &str| {
            let found: Ident = input.parse()?;
            if found != name {
                return Err(syn::Error::new_spanned(
                    &found,
                    format!("expected `{name}`, as in `threads = 128, blocks = 3`"),
                ));
            }
            input.parse::<Token![=]>()?;
            input.parse()
        };
        let threads = field("threads")?;
        input.parse::<Token![,]>()?;
        Ok(Bounds { threads, blocks: field("blocks")? })
    }
}

fn expand(function: &ItemFn, bounds: Option<Bounds>) -> syn::Result<Tokens> {
    let signature = &function.sig;
    let refuse = |message: &str| Err(syn::Error::new_spanned(signature, message));
    if signature.unsafety.is_none() {
        return refuse("a kernel trusts its launch: declare it `pub unsafe fn`");
    }
    if !signature.generics.params.is_empty() {
        return refuse("a kernel is one PTX entry and cannot be generic: stamp variants out with macro_rules!");
    }
    if !matches!(signature.output, ReturnType::Default) {
        return refuse("a kernel returns nothing: write results through a pointer");
    }
    let mut names = Vec::new();
    let mut types = Vec::new();
    let (mut device_inputs, mut made) = (Vec::new(), Vec::new());
    // Of the PTX's parameters so far, and of the types that are no maps by their names.
    let (mut count, mut others) = (0, Vec::new());
    for input in &signature.inputs {
        let FnArg::Typed(typed) = input else {
            return refuse("a kernel has no `self`");
        };
        let Pat::Ident(pattern) = &*typed.pat else {
            return refuse("a kernel's parameters are plain names");
        };
        names.push(pattern.ident.to_string());
        let kind = with_lifetime(&typed.ty);
        if is_tensor_map(&typed.ty) {
            let (name, mutability) = (&pattern.ident, &pattern.mutability);
            device_inputs.push(quote! { #name: u64 });
            // A comment in the PTX, where the builder finds it.
            let mark = format!("// kernel tensor map: {count}");
            made.push(quote! {
                // SAFETY: there is no instruction in it.
                unsafe { ::core::arch::asm!(#mark, options(nomem, nostack, preserves_flags)) };
                // SAFETY: the launch passes a map, by the kernel's contract.
                let #mutability #name: #kind = unsafe { ::cuda_std::tensor_map::TensorMap::at_parameter(#name) };
            });
            count += 1;
        } else if let Some((inputs, slice)) = on_device(pattern, &typed.ty)? {
            device_inputs.push(inputs);
            made.push(slice);
            count += 2;
            others.push(kind.clone());
        } else {
            device_inputs.push(quote! { #typed });
            count += 1;
            others.push(kind.clone());
        }
        types.push(kind);
    }
    // An error at the parameter itself, not where the kernel is first used.
    let passable = types.iter().map(|kind| {
        quote_spanned! { kind.span() => passable::<#kind>(); }
    });
    let named = others.iter().map(|kind| {
        let message = "a tensor map is known to #[kernel] by its name: write `TensorMap`";
        quote_spanned! { kind.span() => ::core::assert!(!<#kind as ::cuda_std::Parameter>::IS_TENSOR_MAP, #message); }
    });
    let (attributes, visibility, block) = (&function.attrs, &function.vis, &function.block);
    let (name, inputs) = (&signature.ident, &signature.inputs);
    let text = name.to_string();
    // A comment in the PTX, where the builder finds it: rustc has no way to put the directives themselves.
    let mark = bounds
        .map(|Bounds { threads, blocks }| -> syn::Result<Tokens> {
            let (threads, blocks) = (threads.base10_parse::<u32>()?, blocks.base10_parse::<u32>()?);
            let comment = format!("// kernel bounds: {threads} {blocks}");
            Ok(quote! {
                // SAFETY: there is no instruction in it.
                unsafe { ::core::arch::asm!(#comment, options(nomem, nostack, preserves_flags)) };
            })
        })
        .transpose()?;
    // Set by `cuda_builder::build_kernels()` for the crate that is being compiled.
    let image = std::env::var_os("WARP_IMAGE").map(|_| {
        quote! {
            .in_image(::cuda_std::Image {
                crate_name: ::core::env!("CARGO_PKG_NAME"),
                ptx: ::core::include_str!(::core::env!("WARP_IMAGE")),
            })
        }
    });
    Ok(quote! {
        #[cfg(target_arch = "nvptx64")]
        #(#attributes)*
        #[unsafe(no_mangle)]
        #visibility unsafe extern "ptx-kernel" fn #name(#(#device_inputs),*) {
            #mark
            #(#made)*
            #block
        }

        #[cfg(not(target_arch = "nvptx64"))]
        #(#attributes)*
        #[allow(non_upper_case_globals)]
        #visibility const #name: ::cuda_std::Kernel<(#(#types,)*)> = {
            const fn passable<P: ::cuda_std::Parameter>() {}
            #(#passable)*
            #(#named)*
            #[allow(dead_code)]
            unsafe fn body(#inputs) #block
            ::cuda_std::Kernel::new(#text, &[#(#names),*])#image
        };
    })
}

/// Whether a parameter's type is `TensorMap`, by its name.
fn is_tensor_map(kind: &Type) -> bool {
    matches!(kind, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "TensorMap"))
}

/// A slice parameter on the device: its two parameters there, and the statement that puts them together. None for another type.
fn on_device(pattern: &PatIdent, kind: &Type) -> syn::Result<Option<(Tokens, Tokens)>> {
    let (name, mutability) = (&pattern.ident, &pattern.mutability);
    let length = Ident::new(&format!("__{name}_length"), name.span());
    Ok(match kind {
        Type::Reference(reference) => match &*reference.elem {
            Type::Slice(_) if reference.mutability.is_some() => {
                return Err(syn::Error::new_spanned(
                    kind,
                    "a `&mut` slice would be each thread's alone: take `*mut [T]`, a pointer with its length, and write \
                     `unsafe { (*out)[i] = … }`",
                ));
            }
            Type::Slice(slice) => {
                let element = &slice.elem;
                let made = quote! {
                    // SAFETY: the launch passes the address of so many elements, by the kernel's contract.
                    let #mutability #name: &[#element] = unsafe { ::core::slice::from_raw_parts(#name, #length) };
                };
                Some((quote! { #name: *const #element, #length: usize }, made))
            }
            _ => None,
        },
        Type::Ptr(pointer) => match &*pointer.elem {
            Type::Slice(slice) => {
                let element = &slice.elem;
                let (kind, make) = match pointer.mutability {
                    Some(_) => (quote! { *mut }, quote! { slice_from_raw_parts_mut }),
                    None => (quote! { *const }, quote! { slice_from_raw_parts }),
                };
                let made = quote! { let #mutability #name: #kind [#element] = ::core::ptr::#make(#name, #length); };
                Some((quote! { #name: #kind #element, #length: usize }, made))
            }
            _ => None,
        },
        _ => None,
    })
}

/// The type as a constant's type may name it.
fn with_lifetime(kind: &Type) -> Type {
    match kind {
        Type::Reference(reference) if reference.lifetime.is_none() => {
            let mut reference = reference.clone();
            reference.lifetime = Some(parse_quote! { 'static });
            Type::Reference(reference)
        }
        other => other.clone(),
    }
}
