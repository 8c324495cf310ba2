//! Where two traces first differ.

use std::fmt;

use super::{Trace, TraceTensor};

/// What comparing two traces found.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// How many tensors both traces have.
    pub compared: usize,
    /// The largest relative error among those before the first difference, with its tensor's name.
    pub largest: Option<(String, f64)>,
    /// The first tensor, in the first trace's order of execution, whose error passes the tolerance.
    pub first: Option<Difference>,
    /// Names that only the first trace has.
    pub only_first: Vec<String>,
    /// Names that only the second trace has.
    pub only_second: Vec<String>,
}

/// How one tensor differs.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// The tensors cannot be compared.
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the first trace.
        first: Vec<usize>,
        /// Its shape in the second.
        second: Vec<usize>,
    },
    /// The tensors' values are apart.
    Values {
        /// The tensor.
        name: String,
        /// ‖first − second‖ / ‖second‖, or infinity where a value is not a number in only one of them.
        error: f64,
        /// Where the values are farthest apart; one index for each dimension.
        index: Vec<usize>,
        /// The first trace's value there.
        first: f32,
        /// The second trace's value there.
        second: f32,
    },
    /// The values that were printed agree, and the sums of all do not.
    Sum {
        /// The tensor.
        name: String,
        /// The first trace's sum.
        first: f64,
        /// The sum that was printed.
        second: f64,
        /// How far they may be apart.
        allowed: f64,
    },
}

impl Trace {
    /// [`Trace::diff`] over the tensors that this trace has, where it need not have all.
    pub fn diff_common(&self, reference: &Trace, tolerance: f64) -> Diff {
        Diff { only_second: Vec::new(), ..self.diff(reference, tolerance) }
    }

    /// Compares with `reference`: in the order of execution, the first tensor whose relative L2 error is above `tolerance`.
    pub fn diff(&self, reference: &Trace, tolerance: f64) -> Diff {
        let only = |a: &Trace, b: &Trace| -> Vec<String> {
            a.tensors.iter().filter(|t| b.get(&t.name).is_none()).map(|t| t.name.clone()).collect()
        };
        let mut diff = Diff {
            compared: 0,
            largest: None,
            first: None,
            only_first: only(self, reference),
            only_second: only(reference, self),
        };
        let pairs = self.tensors.iter().filter_map(|t| Some((t, reference.get(&t.name)?)));
        for (first, second) in pairs {
            diff.compared += 1;
            if diff.first.is_some() {
                continue;
            }
            let error = if first.shape == second.shape { relative_error(&first.data, &second.data) } else { f64::NAN };
            if error <= tolerance {
                if diff.largest.as_ref().is_none_or(|(_, largest)| error > *largest) {
                    diff.largest = Some((first.name.clone(), error));
                }
            } else {
                diff.first = Some(difference(first, second, error));
            }
        }
        diff
    }
}

/// ‖got − want‖ / ‖want‖ in L2, summed in double precision; ‖got − want‖ itself where `want` is all zeros. Infinite where a value
/// is NaN or infinite in `got` and not the same in `want`.
///
/// # Panics
/// If the lengths differ.
pub fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "tensors of one shape");
    let (mut distance, mut norm) = (0.0, 0.0);
    for (got, want) in got.iter().zip(want) {
        if !got.is_finite() || !want.is_finite() {
            if got.to_bits() != want.to_bits() && !(got.is_nan() && want.is_nan()) {
                return f64::INFINITY;
            }
            continue;
        }
        let (got, want) = (f64::from(*got), f64::from(*want));
        distance += (got - want) * (got - want);
        norm += want * want;
    }
    if norm == 0.0 { distance.sqrt() } else { (distance / norm).sqrt() }
}

fn difference(first: &TraceTensor, second: &TraceTensor, error: f64) -> Difference {
    let name = first.name.clone();
    if first.shape != second.shape {
        return Difference::Shape { name, first: first.shape.clone(), second: second.shape.clone() };
    }
    // Where one is no number and the other is, the distance is NaN, which total order puts above all numbers.
    let distance = |i: &usize| (f64::from(first.data[*i]) - f64::from(second.data[*i])).abs();
    let farthest = (0..first.data.len()).max_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
    let mut index = vec![0; first.shape.len()];
    let mut rest = farthest;
    for (index, size) in index.iter_mut().zip(&first.shape).rev() {
        *index = rest % size;
        rest /= size;
    }
    Difference::Values { name, error, index, first: first.data[farthest], second: second.data[farthest] }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Difference::Shape { name, first, second } => write!(f, "{name}: shapes {first:?} and {second:?}"),
            Difference::Sum { name, first, second, allowed } => write!(
                f,
                "{name}: the printed values agree, the sums do not: {first} and {second}, expected at most {allowed:.1e} apart: the \
                 difference is in values that were not printed"
            ),
            Difference::Values { name, error, index, first, second } => {
                write!(f, "{name}: relative error {error:.3e}; farthest apart at {index:?}: {first} and {second}")
            }
        }
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (&self.first, &self.largest) {
            (Some(first), _) => writeln!(f, "first difference in {first}")?,
            (None, Some((name, error))) => {
                writeln!(f, "{} tensors agree; the largest relative error is {error:.3e}, in {name}", self.compared)?;
            }
            (None, None) => writeln!(f, "the traces have no tensor in common")?,
        }
        for (side, names) in [("first", &self.only_first), ("second", &self.only_second)] {
            if !names.is_empty() {
                writeln!(f, "only in the {side}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}
