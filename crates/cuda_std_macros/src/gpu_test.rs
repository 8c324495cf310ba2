//! `#[gpu_test]`: one function, two tests.

use std::path::Path;

use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, ItemFn, Path as Name, ReturnType, Token};

/// What an NVIDIA driver puts there once it runs: the control device, its status, and the device of Windows' Linux.
const DRIVER_FILES: [&str; 3] = ["/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg"];

pub fn expand(attribute: Tokens, item: Tokens) -> syn::Result<Tokens> {
    let kernels = Punctuated::<Name, Token![,]>::parse_terminated.parse2(attribute)?;
    let function: ItemFn = syn::parse2(item)?;
    let signature = &function.sig;
    if kernels.is_empty() {
        return Err(syn::Error::new_spanned(
            &signature.ident,
            "name the kernels that the test must launch: #[gpu_test(scale)]. A test that launches none would pass by doing nothing",
        ));
    }
    if signature.inputs.len() != 1 || !signature.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            signature,
            "a GPU test takes its device and nothing else: fn name(device: &Device)",
        ));
    }
    let (of_function, of_tests): (Vec<&Attribute>, Vec<&Attribute>) =
        function.attrs.iter().partition(|attribute| belongs_to_function(attribute));
    let (visibility, block, name, output) = (&function.vis, &function.block, &signature.ident, &signature.output);
    let kernels: Vec<&Name> = kernels.iter().collect();
    let ends = match output {
        ReturnType::Default => quote! {},
        ReturnType::Type(..) => quote! { .expect("the test returned an error") },
    };
    // libtest decides nothing at run time: what a test is called and whether it is ignored is compiled in.
    let without_gpu = (!DRIVER_FILES.iter().any(|file| Path::new(file).exists()))
        .then(|| quote! { #[ignore = "there is no NVIDIA GPU on this machine"] });
    Ok(quote! {
        #(#of_function)*
        #visibility #signature #block

        #[cfg(test)]
        mod #name {
            #[allow(unused_imports)]
            use super::*;

            #[test]
            #(#of_tests)*
            fn soft() {
                ::warp_test::run_on_soft(&[#(#kernels.name()),*], |device| super::#name(device) #ends)
            }

            #[test]
            #without_gpu
            #(#of_tests)*
            fn cuda() {
                ::warp_test::run_on_cuda(&[#(#kernels.name()),*], |device| super::#name(device) #ends)
            }
        }
    })
}

/// Lints and documentation are the function's; `#[ignore]` and `#[should_panic]` the tests'.
fn belongs_to_function(attribute: &Attribute) -> bool {
    !["ignore", "should_panic"].iter().any(|name| attribute.path().is_ident(name))
}
