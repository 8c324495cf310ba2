//! Ministral 3 and Devstral 2 (Mistral, 2025): Llama with YaRN by two multipliers, and queries that grow over long contexts.

use super::{Family, Presence, llama};

pub(super) const FAMILY: Family = Family {
    architecture: "mistral3",
    yarn_log_unit: Some(1.0),
    temperature: true,
    experts: Presence::Absent,
    ..llama::FAMILY
};
