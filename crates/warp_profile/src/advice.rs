//! A sentence for what a line costs beyond what it need.

use crate::counts::Instruction;
use crate::kernel::Numbers;

/// Sectors beyond the fewest that are worth a sentence.
const TOO_MANY: f64 = 1.5;

pub fn of(numbers: &Numbers, instructions: &[&Instruction]) -> Vec<String> {
    let mut advice = Vec::new();
    conflicts(numbers, instructions, &mut advice);
    sectors(instructions, &mut advice);
    narrow(instructions, &mut advice);
    if numbers.divergent_branches > 0 {
        advice.push(format!(
            "divergence: {} times lanes of a warp part here, and each side waits for the other",
            numbers.divergent_branches
        ));
    }
    let idle = 32.0 - numbers.active_lanes * 0.32;
    if numbers.instructions > 0 && numbers.active_lanes > 0.0 && numbers.active_lanes < 50.0 {
        advice.push(format!(
            "idle lanes: {:.0} of 32 do nothing, on average; the instructions cost as much as for all",
            idle
        ));
    }
    if numbers.local > 0 {
        advice.push(format!(
            "local memory: {} accesses, of registers that were spilled or an array whose index is not known when it is compiled",
            numbers.local
        ));
    }
    advice
}

fn conflicts(numbers: &Numbers, instructions: &[&Instruction], advice: &mut Vec<String>) {
    let Some(worst) = instructions.iter().filter(|ins| ins.conflicts > 0).max_by_key(|ins| ins.conflicts) else {
        return;
    };
    let cause = match worst.stride {
        Some(stride) if stride % 4 == 0 => {
            let words = stride / 4;
            let cure = if words % 2 == 0 {
                format!("; rows of {} words instead would have none", (words | 1).abs())
            } else {
                String::new()
            };
            format!("stride {words} words{cure}")
        }
        Some(stride) => format!("stride {stride} bytes"),
        None => "lanes want different words of one bank".to_owned(),
    };
    let all = numbers.shared_requests.max(1);
    advice.push(format!(
        "{}-way conflict: {cause} ({:.1} wavefronts a request more than it needs)",
        worst.ways,
        numbers.shared_conflicts as f64 / all as f64
    ));
}

fn sectors(instructions: &[&Instruction], advice: &mut Vec<String>) {
    let sectors = |ins: &Instruction| ins.load_sectors + ins.store_sectors;
    let fewest = |ins: &Instruction| (ins.load_bytes + ins.store_bytes).div_ceil(32).max(ins.acted).max(1);
    let wasted = |ins: &&&Instruction| sectors(ins).saturating_sub(fewest(ins));
    let Some(worst) = instructions.iter().max_by_key(wasted) else { return };
    let ratio = sectors(worst) as f64 / fewest(worst) as f64;
    if ratio < TOO_MANY {
        return;
    }
    let what = if worst.load_sectors > 0 { "loads" } else { "stores" };
    let apart = match worst.stride {
        Some(stride) => format!("lanes are {stride} bytes apart"),
        None => "lanes' addresses are scattered".to_owned(),
    };
    advice.push(format!(
        "uncoalesced: {what} touch {:.1} sectors a request where {:.1} would do: {apart}; neighbouring lanes should take \
         neighbouring values",
        sectors(worst) as f64 / worst.acted.max(1) as f64,
        fewest(worst) as f64 / worst.acted.max(1) as f64
    ));
}

/// Loads and stores of a byte or two by each lane.
fn narrow(instructions: &[&Instruction], advice: &mut Vec<String>) {
    let bytes = |ins: &Instruction| ins.load_bytes + ins.store_bytes;
    let narrow = instructions.iter().filter(|ins| bytes(ins) > 0 && bytes(ins) < 4 * ins.lanes);
    let Some(worst) = narrow.max_by_key(|ins| ins.issued) else { return };
    let each = bytes(worst) / worst.lanes.max(1);
    advice.push(format!(
        "narrow: each lane moves {each} byte{} an instruction; 4 or 16 take as long",
        if each == 1 { "" } else { "s" }
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(ins: Instruction) -> Vec<String> {
        let numbers = Numbers {
            instructions: ins.issued,
            active_lanes: 100.0 * ins.lanes as f64 / (32 * ins.acted) as f64,
            divergent_branches: ins.divergent,
            shared_requests: ins.acted,
            shared_conflicts: ins.conflicts,
            local: if ins.class == "Local" { ins.acted } else { 0 },
            ..Numbers::default()
        };
        of(&numbers, &[&ins])
    }

    fn full() -> Instruction {
        Instruction { issued: 10, acted: 10, lanes: 320, ..Instruction::default() }
    }

    #[test]
    fn each_cause_has_its_sentence() {
        for (ins, said) in [
            (
                Instruction { conflicts: 310, ways: 32, stride: Some(128), shared_load_bytes: 1280, ..full() },
                "32-way conflict: stride 32 words; rows of 33 words instead would have none (31.0 wavefronts a request",
            ),
            (
                Instruction { conflicts: 10, ways: 2, ..full() },
                "2-way conflict: lanes want different words of one bank",
            ),
            (
                Instruction { load_sectors: 320, load_bytes: 1280, stride: Some(4096), ..full() },
                "loads touch 32.0 sectors a request where 4.0 would do: lanes are 4096 bytes apart",
            ),
            (
                Instruction { store_sectors: 320, store_bytes: 1280, ..full() },
                "stores touch 32.0 sectors a request where 4.0 would do: lanes' addresses are scattered",
            ),
            (
                Instruction { load_sectors: 10, load_bytes: 320, ..full() },
                "narrow: each lane moves 1 byte an instruction",
            ),
            (Instruction { divergent: 7, ..full() }, "divergence: 7 times"),
            (Instruction { lanes: 80, ..full() }, "idle lanes: 24 of 32"),
            (Instruction { class: "Local".into(), ..full() }, "local memory: 10 accesses"),
        ] {
            let found = advice(ins);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(said), "{said:?} is not in {found:?}");
        }
    }

    #[test]
    fn what_is_as_it_should_be_has_none() {
        for ins in [
            full(),
            Instruction { load_sectors: 40, load_bytes: 1280, stride: Some(4), ..full() },
            Instruction { load_sectors: 10, load_bytes: 1280, stride: Some(0), ..full() },
            Instruction { shared_load_bytes: 1280, stride: Some(4), ..full() },
        ] {
            assert_eq!(advice(ins), [""; 0]);
        }
    }
}
