//! What each byte of memory remembers of the accesses to it.

/// The accesses a byte remembers: 1 + record * 32 + lane, or 0.
#[derive(Clone, Copy, Default)]
pub(super) struct Cell {
    pub(super) write: u64,
    pub(super) read: u64,
    /// A read by another thread than `read`.
    pub(super) read_other: u64,
}

/// Bytes of memory whose cells are kept and refined together.
const PAGE: usize = 4096;
/// Bytes of the largest access, as a power of two.
const COARSEST: u32 = 4;

/// The cells of [`PAGE`] bytes, one for each `1 << shift` bytes.
struct Page {
    shift: u32,
    cells: Box<[Cell]>,
}

impl Page {
    #[cold]
    fn new() -> Page {
        Page { shift: COARSEST, cells: vec![Cell::default(); PAGE >> COARSEST].into_boxed_slice() }
    }

    #[cold]
    fn refine(&mut self, shift: u32) {
        let copies = 1 << (self.shift - shift);
        let cells = self.cells.iter();
        self.cells = cells.flat_map(|&c| std::iter::repeat_n(c, copies)).collect();
        self.shift = shift;
    }
}

/// The pages of an allocation, or of a block's shared memory; absent until touched.
#[derive(Default)]
pub(super) struct Pages(Vec<Option<Page>>);

impl Pages {
    /// The cells of an aligned access, and how many bytes each stands for, as a power of two.
    #[inline]
    pub(super) fn cells(&mut self, offset: u64, bytes: u64) -> (&mut [Cell], u32) {
        let (page, offset) = (offset as usize / PAGE, offset as usize % PAGE);
        if page >= self.0.len() {
            self.0.resize_with(page + 1, || None);
        }
        let page = self.0[page].get_or_insert_with(Page::new);
        if bytes < 1 << page.shift {
            page.refine(bytes.trailing_zeros());
        }
        let (start, count) = (offset >> page.shift, bytes as usize >> page.shift);
        (&mut page.cells[start..start + count], page.shift)
    }

    /// The ranges of bytes, start and end, that were written, in order.
    pub(super) fn written(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (index, page) in self.0.iter().enumerate() {
            let Some(page) = page else {
                continue;
            };
            for (i, _) in page.cells.iter().enumerate().filter(|(_, cell)| cell.write != 0) {
                let start = (index * PAGE + (i << page.shift)) as u64;
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
