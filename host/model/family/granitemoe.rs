//! Granite 3 and 4 with experts (IBM), perhaps with one that every token goes through.

use super::{Family, Presence, Shared, granite};

pub(super) const FAMILY: Family =
    Family { architecture: "granitemoe", experts: Presence::Required, shared_expert: Shared::Plain, ..granite::FAMILY };
