//! What llama.cpp's `eval-callback` prints: every tensor with its shape, its first and last values of each dimension, and the
//! sum of all.
//!
//! ```text
//! ggml_debug:                   norm-0 = (f32)        MUL(norm-0{64, 2, 1, 1}, blk.0.attn_norm.weight{64, 1, 1, 1}}) = {64, 2, 1, 1}
//!                                      [
//!                                       [
//!                                        [      0.1000,       0.2000,       0.3000, ...,       0.4000,       0.5000,       0.6000],
//!                                        …
//!                                      sum = 12.345678
//! ```
//!
//! Values have four decimals. What is left out is only in the sum, which llama.cpp adds up in f32. Sizes are given with the
//! contiguous dimension first, where a [`Trace`] has it last. A name that comes again, which is a later step of the same value,
//! gets a suffix that counts, as in a trace. Of a run with several passes the first is read.

use std::collections::HashMap;

use super::{Diff, Difference, Trace, TraceTensor};

/// Half of the last decimal that is printed, and what f32 makes of it.
const ROUNDING: f64 = 5.1e-5;

/// More values than any tensor of a graph has.
const MOST_VALUES: usize = 1 << 40;

/// A printed tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct PrintedTensor {
    /// llama.cpp's name, with the suffix that counts.
    pub name: String,
    /// Dimensions, the contiguous one last, without leading ones.
    pub shape: Vec<usize>,
    /// Index in the whole tensor and value.
    pub values: Vec<(usize, f32)>,
    /// Of all values.
    pub sum: Option<f64>,
}

/// What was printed, in the order of execution.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Printed {
    /// The tensors.
    pub tensors: Vec<PrintedTensor>,
}

/// A tensor whose values are being read.
struct Reading {
    tensor: PrintedTensor,
    /// The contiguous dimension first, as printed.
    sizes: [usize; 4],
    /// What has been seen in each list that is open, the outermost first.
    counts: Vec<usize>,
}

impl Reading {
    /// One item of the innermost open list was seen, or a whole list of it.
    fn step(&mut self) {
        if let Some(count) = self.counts.last_mut() {
            *count += 1;
        }
    }

    /// `...`: as many items are left as there were before it.
    fn skip(&mut self) {
        let depth = self.counts.len();
        let size = 4usize.checked_sub(depth).and_then(|dimension| self.sizes.get(dimension));
        if let (Some(count), Some(size)) = (self.counts.last_mut(), size) {
            *count = size.saturating_sub(*count);
        }
    }

    fn value(&mut self, value: f32) {
        if let [outer @ .., column] = &self.counts[..]
            && outer.len() == 3
        {
            let [n0, n1, n2, _] = self.sizes;
            // More values than the heading says are not the tensor's.
            if outer[1] < n2 && outer[2] < n1 && *column < n0 {
                self.tensor.values.push((((outer[0] * n2 + outer[1]) * n1 + outer[2]) * n0 + column, value));
            }
        }
        self.step();
    }

    /// A line of brackets, values and `...`.
    fn line(&mut self, line: &str) {
        for part in line.split_inclusive(['[', ']', ',']) {
            let (text, end) = part.split_at(part.len() - part.chars().next_back().map_or(0, char::len_utf8));
            let is_end = matches!(end, "[" | "]" | ",");
            let text = if is_end { text.trim() } else { part.trim() };
            match text {
                "" => {}
                "..." => self.skip(),
                // C's `-nan` is none of Rust's.
                number if self.counts.len() == 4 => self.value(number.parse().unwrap_or(f32::NAN)),
                _ => {}
            }
            match end {
                "[" => self.counts.push(0),
                "]" => {
                    self.counts.pop();
                    self.step();
                }
                _ => {}
            }
        }
    }
}

/// `NAME = (TYPE) OP(…) = {64, 2, 1, 1}`: the name and the sizes.
fn heading(line: &str) -> Option<(&str, [usize; 4])> {
    let (before, rest) = line.split_once(" = (")?;
    let (_, sizes) = rest.rsplit_once("= {")?;
    let mut numbers = sizes.trim_end().strip_suffix('}')?.split(',').map(|size| size.trim().parse().ok());
    let mut next = || numbers.next().flatten();
    let sizes: [usize; 4] = [next()?, next()?, next()?, next()?];
    sizes.iter().try_fold(1usize, |all, size| all.checked_mul(*size)).filter(|all| *all <= MOST_VALUES)?;
    let name = before.split_once(": ").map_or(before, |(_, name)| name).trim();
    (!name.is_empty()).then_some((name, sizes))
}

impl Printed {
    /// Reads the text; other lines between the tensors are passed over. None where it holds no tensor.
    pub fn read(text: &str) -> Option<Printed> {
        let mut printed = Printed::default();
        let mut counts: HashMap<String, usize> = HashMap::new();
        let mut first: Option<String> = None;
        // Brackets begin one list deeper than the tensor: its outermost dimension.
        let mut reading: Option<Reading> = None;
        for line in text.lines() {
            if let Some((name, sizes)) = heading(line) {
                printed.tensors.extend(reading.take().map(|reading| reading.tensor));
                if first.as_deref() == Some(line) {
                    // The next pass begins as the first did.
                    break;
                }
                first.get_or_insert_with(|| line.to_owned());
                let count = counts.entry(name.to_owned()).or_insert(0);
                let name = if *count == 0 { name.to_owned() } else { format!("{name}.{count}") };
                *count += 1;
                let mut shape: Vec<usize> = sizes.iter().rev().copied().collect();
                let leading = shape.iter().take_while(|size| **size == 1).count().min(3);
                shape.drain(..leading);
                let tensor = PrintedTensor { name, shape, values: Vec::new(), sum: None };
                reading = Some(Reading { tensor, sizes, counts: vec![0] });
            } else if let Some(current) = &mut reading {
                match line.trim().strip_prefix("sum = ") {
                    Some(sum) => {
                        current.tensor.sum = sum.trim().parse().ok();
                        printed.tensors.extend(reading.take().map(|reading| reading.tensor));
                    }
                    None => current.line(line),
                }
            }
        }
        printed.tensors.extend(reading.map(|reading| reading.tensor));
        (!printed.tensors.is_empty()).then_some(printed)
    }

    fn get(&self, name: &str) -> Option<&PrintedTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// The rows of a trace's tensor that were printed: all, or the last, where llama.cpp went on with the last token alone.
fn rows<'t>(tensor: &'t TraceTensor, printed: &PrintedTensor) -> Option<&'t [f32]> {
    let leading = tensor.shape.iter().take_while(|size| **size == 1).count().min(tensor.shape.len().saturating_sub(1));
    if tensor.shape[leading..] == printed.shape[..] {
        return Some(&tensor.data);
    }
    let wanted: usize = printed.shape.iter().product();
    let width: usize = tensor.shape.iter().skip(1).product();
    let of_rows = |skip: usize| printed.shape.get(skip..).is_some_and(|rest| tensor.shape.ends_with(rest));
    let is_tail = width > 0 && wanted < tensor.data.len() && wanted.is_multiple_of(width) && (of_rows(1) || of_rows(0));
    is_tail.then(|| &tensor.data[tensor.data.len() - wanted..])
}

impl Trace {
    /// [`Trace::diff`] with what `eval-callback` printed: the values that it shows, of which the last decimal may be rounded, and
    /// the sum, which speaks for those that it does not.
    pub fn diff_printed(&self, printed: &Printed, tolerance: f64) -> Diff {
        let absent = |t: &&TraceTensor| printed.get(&t.name).is_none();
        let mut diff = Diff {
            compared: 0,
            largest: None,
            first: None,
            only_first: self.tensors.iter().filter(absent).map(|t| t.name.clone()).collect(),
            // Views, inputs and whatever else llama.cpp's graph has are no part of a trace.
            only_second: Vec::new(),
        };
        for tensor in &self.tensors {
            let Some(other) = printed.get(&tensor.name) else { continue };
            diff.compared += 1;
            if diff.first.is_some() {
                continue;
            }
            match compare(tensor, other, tolerance) {
                Ok(error) if diff.largest.as_ref().is_none_or(|(_, largest)| error > *largest) => {
                    diff.largest = Some((tensor.name.clone(), error));
                }
                Ok(_) => {}
                Err(difference) => diff.first = Some(difference),
            }
        }
        diff
    }
}

/// The relative error of what was printed, beyond its rounding.
fn compare(tensor: &TraceTensor, printed: &PrintedTensor, tolerance: f64) -> Result<f64, Difference> {
    let name = tensor.name.clone();
    let Some(data) = rows(tensor, printed) else {
        return Err(Difference::Shape { name, first: tensor.shape.clone(), second: printed.shape.clone() });
    };
    let (mut distance, mut norm) = (0.0, 0.0);
    let mut farthest = (0.0, 0, 0f32, 0f32);
    for &(index, second) in printed.values.iter().filter(|(index, _)| *index < data.len()) {
        let first = data[index];
        let apart = f64::from(first) - f64::from(second);
        let apart = match first.is_finite() && second.is_finite() {
            true => (apart.abs() - ROUNDING).max(0.0),
            false if first.to_bits() == second.to_bits() || first.is_nan() && second.is_nan() => 0.0,
            false => f64::INFINITY,
        };
        if apart > farthest.0 {
            farthest = (apart, index, first, second);
        }
        distance += apart * apart;
        norm += if second.is_finite() { f64::from(second) * f64::from(second) } else { 0.0 };
    }
    let error = if norm == 0.0 { distance.sqrt() } else { (distance / norm).sqrt() };
    if error > tolerance {
        let (_, at, first, second) = farthest;
        let mut index = vec![0; printed.shape.len()];
        let mut rest = at;
        for (index, size) in index.iter_mut().zip(&printed.shape).rev() {
            *index = rest % size;
            rest /= size;
        }
        return Err(Difference::Values { name, error, index, first, second });
    }
    // Adding up in f32 loses of each value what a sum as large as all of them has no place for.
    let own: f64 = data.iter().map(|value| f64::from(*value)).sum();
    let all: f64 = data.iter().map(|value| f64::from(value.abs())).sum();
    if let Some(sum) = printed.sum.filter(|sum| sum.is_finite() && own.is_finite()) {
        let allowed = (tolerance + f64::from(f32::EPSILON) * data.len() as f64) * all + 1e-6;
        if (own - sum).abs() > allowed {
            return Err(Difference::Sum { name, first: own, second: sum, allowed });
        }
    }
    Ok(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_those_of_the_whole_tensor() {
        let text = "x: a-0 = (f32) ADD(b{8, 7, 1, 1}, }) = {8, 7, 1, 1}\n[\n[\n[1.0, 2.0, 3.0, ..., 6.0, 7.0, 8.0],\n[9.0, 1, 1, ..., 1, 1, 1],\n[1, 1, 1, ..., 1, 1, 1],\n..., \n[1, 1, 1, ..., 1, 1, 2],\n[1, 1, 1, ..., 1, 1, 3],\n[1, 1, 1, ..., 1, 1, nan],\n],\n]\nsum = 3.5\n";
        let printed = Printed::read(text).unwrap();
        let tensor = &printed.tensors[0];
        assert_eq!((tensor.name.as_str(), &tensor.shape[..], tensor.sum), ("a-0", &[7, 8][..], Some(3.5)));
        let value = |index: usize| tensor.values.iter().find(|(at, _)| *at == index).map(|(_, value)| *value);
        assert_eq!([value(0), value(2), value(5), value(7), value(8)], [1.0, 3.0, 6.0, 8.0, 9.0].map(Some));
        assert_eq!([value(3), value(4), value(24)], [None; 3]);
        assert_eq!([value(4 * 8 + 7), value(5 * 8 + 7)], [2.0, 3.0].map(Some));
        assert!(value(6 * 8 + 7).unwrap().is_nan());
        assert_eq!(tensor.values.len(), 36);
    }

    #[test]
    fn a_name_that_comes_again_is_counted_and_a_second_pass_is_not_read() {
        let line = |name: &str, value: &str| {
            format!(
                "d: {name} = (f32) ADD(b{{1, 1, 1, 1}}, }}) = {{1, 1, 1, 1}}\n[\n[\n[{value}],\n],\n]\nsum = {value}\n"
            )
        };
        let text = [line("embd", "1"), line("q-0", "2"), line("q-0", "3"), line("embd", "4")].concat();
        let printed = Printed::read(&text).unwrap();
        let names: Vec<&str> = printed.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["embd", "q-0", "q-0.1"]);
        assert_eq!(Printed::read("nothing = here\n"), None);
    }
}
