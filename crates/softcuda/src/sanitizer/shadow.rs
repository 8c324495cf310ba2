//! What each byte of memory remembers of the accesses to it.

/// An access, as a byte remembers it: 1 + record * 32 + lane, or 0 for none.
pub(super) type Trace = u32;

/// What cells next to each other remember.
pub(super) struct Cells<'p> {
    pub(super) write: &'p mut [Trace],
    pub(super) read: &'p mut [Trace],
    /// A read by another thread than `read`.
    pub(super) read_other: &'p mut [Trace],
    /// How many bytes a cell stands for, as a power of two.
    pub(super) shift: u32,
}

/// Bytes of memory whose cells are kept and refined together.
pub(super) const PAGE: u64 = 4096;
/// Bytes of the largest access, as a power of two.
const COARSEST: u32 = 4;

/// The cells of [`PAGE`] bytes, one for each `1 << shift` bytes.
struct Page {
    shift: u32,
    /// Of all cells the write, then `read`, then `read_other`: a few cells are compared at once.
    traces: Box<[Trace]>,
    /// Whether any cell may have a write.
    written: bool,
}

impl Page {
    #[cold]
    fn new() -> Page {
        Page { shift: COARSEST, traces: vec![0; 3 * (PAGE as usize >> COARSEST)].into_boxed_slice(), written: false }
    }

    #[cold]
    fn refine(&mut self, shift: u32) {
        let copies = 1 << (self.shift - shift);
        self.traces = self.traces.iter().flat_map(|&trace| std::iter::repeat_n(trace, copies)).collect();
        self.shift = shift;
    }

    fn writes(&self) -> &[Trace] {
        if self.written { &self.traces[..self.traces.len() / 3] } else { &[] }
    }
}

/// The pages of an allocation, or of a block's shared memory; absent until touched.
#[derive(Default)]
pub(super) struct Pages(Vec<Option<Page>>);

impl Pages {
    /// The cells of `count` aligned accesses of `bytes` bytes, one behind the other in one page.
    #[inline]
    pub(super) fn cells(&mut self, offset: u64, bytes: u64, count: u32, writes: bool) -> Cells<'_> {
        let (page, offset) = ((offset / PAGE) as usize, (offset % PAGE) as usize);
        if page >= self.0.len() {
            self.0.resize_with(page + 1, || None);
        }
        let page = self.0[page].get_or_insert_with(Page::new);
        if bytes < 1 << page.shift {
            page.refine(bytes.trailing_zeros());
        }
        page.written |= writes;
        let shift = page.shift;
        let (start, count) = (offset >> shift, (bytes as usize >> shift) * count as usize);
        let (write, reads) = page.traces.split_at_mut(PAGE as usize >> shift);
        let (read, read_other) = reads.split_at_mut(PAGE as usize >> shift);
        let range = start..start + count;
        Cells {
            write: &mut write[range.clone()],
            read: &mut read[range.clone()],
            read_other: &mut read_other[range],
            shift,
        }
    }

    /// What was done to these bytes, 16 or a multiple, is forgotten.
    pub(super) fn forget(&mut self, offset: u64, bytes: u64) {
        for at in (offset..offset + bytes).step_by(1 << COARSEST) {
            let cells = self.cells(at, 1 << COARSEST, 1, false);
            [cells.write, cells.read, cells.read_other].into_iter().for_each(|traces| traces.fill(0));
        }
    }

    /// The ranges of bytes, start and end, that were written, in order.
    pub(super) fn written(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (index, page) in self.0.iter().enumerate() {
            let Some(page) = page else {
                continue;
            };
            for (i, _) in page.writes().iter().enumerate().filter(|(_, trace)| **trace != 0) {
                let start = index as u64 * PAGE + ((i as u64) << page.shift);
                let end = start + (1 << page.shift);
                match ranges.last_mut() {
                    Some(last) if last.1 == start => last.1 = end,
                    _ => ranges.push((start, end)),
                }
            }
        }
        ranges
    }
}
