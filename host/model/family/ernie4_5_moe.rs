//! ERNIE 4.5, mixture of experts (Baidu): dense layers first, experts chosen with a bias, and one that every token goes through.

use super::{Family, Presence, Shared, ernie4_5};

pub(super) const FAMILY: Family = Family {
    architecture: "ernie4_5-moe",
    experts: Presence::Required,
    selection_bias: true,
    shared_expert: Shared::Plain,
    some_dense: true,
    ..ernie4_5::FAMILY
};
