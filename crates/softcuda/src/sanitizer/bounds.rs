//! Accesses that leave the variable whose address they were computed from: see `ptx::symbols`.

use super::{Sanitizer, Site, Touch};
use crate::fault::{Fault, FaultKind};
use crate::program::Symbol;
use crate::space::{Kind, Space, lanes_of};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Variables of the space of the access, by its line.
pub(super) type Bounds = HashMap<u64, Box<[Symbol]>, BuildHasherDefault<Spread>>;

/// Lines are small numbers, and every access asks: one multiplication spreads them.
#[derive(Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Sanitizer {
    pub(super) fn expect_inside(
        &mut self,
        site: Site,
        line: u32,
        mask: u32,
        addresses: &[u64; 32],
        touch: Touch,
    ) -> Result<(), (usize, Fault)> {
        let shared = touch.space == Space::Shared;
        let symbols = self.bounds.entry(u64::from(line) << 1 | u64::from(shared)).or_insert_with(|| {
            let names = site.source.variables_of(line);
            let is_it = |symbol: &&Symbol| symbol.shared == shared && names.contains(&symbol.name);
            site.symbols.iter().filter(is_it).cloned().collect()
        });
        if symbols.is_empty() {
            return Ok(());
        }
        let inside = |address: u64| symbols.iter().any(|s| s.start <= address && address + touch.bytes <= s.end);
        let Some(lane) = lanes_of(mask).find(|&lane| !inside(addresses[lane])) else {
            return Ok(());
        };
        let address = addresses[lane];
        let distance = |s: &Symbol| s.start.saturating_sub(address) + address.saturating_sub(s.end);
        let nearest = symbols.iter().min_by_key(|s| distance(s)).unwrap_or(&symbols[0]);
        let place = if address < nearest.start {
            format!("{} bytes before the start", nearest.start - address)
        } else if address >= nearest.end {
            format!("{} bytes past the end", address - nearest.end)
        } else {
            format!("ending {} bytes past the end", address + touch.bytes - nearest.end)
        };
        let holds = |s: &&Symbol| s.shared == shared && s.start < address + touch.bytes && address < s.end;
        let other = site.symbols.iter().filter(|s| s.name != nearest.name).find(holds);
        let other = other.map_or(String::new(), |other| format!(", in `{}`", other.name));
        let verb = match touch.kind {
            Kind::Load => "load",
            Kind::Store => "store",
            Kind::Atomic => "atomic access",
        };
        let memory = if shared { " of shared memory" } else { "" };
        let message = format!(
            "{verb} of {} bytes at {address:#x}{memory}: {place} of `{}`, {} bytes at {:#x}, from whose address it was computed{other}",
            touch.bytes,
            nearest.name,
            nearest.end - nearest.start,
            nearest.start,
        );
        Err((lane, Fault::new(FaultKind::OutOfBounds, message)))
    }
}
