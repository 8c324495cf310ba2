//! What a file must keep, as an enumeration: each rule with what it asks for and what a person can do about a file that breaks it.

/// Defines an enumeration of rules: `Rule => advice`, each with its text.
macro_rules! rules {
    (
        $(#[doc = $about:literal])+
        $name:ident;

        $($(#[doc = $doc:literal])+ $rule:ident => $advice:expr,)+
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[doc = $doc])+ $rule,)+
        }

        impl $name {
            /// Every rule, in the order a reader meets them.
            pub const ALL: &[$name] = &[$($name::$rule),+];

            /// What a person can do about a file that breaks the rule.
            pub fn advice(self) -> &'static str {
                match self {
                    $($name::$rule => $advice,)+
                }
            }
        }
    };
}

pub(crate) use rules;
