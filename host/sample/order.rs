//! Sorting with the order of equal elements that libstdc++ gives.
//!
//! `std::sort` and `std::partial_sort` may leave equal elements in any order, and the order they do leave decides which
//! of two equally likely tokens a draw lands on, or which survives at the edge of top-k. To pick llama.cpp's tokens even
//! then, the two algorithms here make the same comparisons and moves as GNU libstdc++ does (`bits/stl_algo.h`,
//! `bits/stl_heap.h`):
//!
//! - [`partial_sort`] keeps a heap of the first `k` elements with the last of them in the order on top, lets every later
//!   element that comes before the top replace it, and sorts the heap. One comparison per element for most of a
//!   vocabulary, which is why top-k of 40 costs little more than reading the logits.
//! - [`sort`] is introsort (Musser, "Introspective sorting and selection algorithms", 1997): quicksort around the median
//!   of three until pieces hold at most 16 elements, a heap sort where it goes too deep, and one insertion sort over
//!   everything at the end.
//!
//! `before(a, b)` must be a strict weak order: the callers never hand over a NaN.

/// Pieces up to this length are left to the final insertion sort.
const SMALL: usize = 16;

/// Sorts all of `items`.
pub fn sort<T: Copy>(items: &mut [T], before: impl Fn(&T, &T) -> bool) {
    if items.len() > 1 {
        partition_down_to_small(items, 2 * items.len().ilog2(), &before);
        insertion_sort(items, &before);
    }
}

/// Moves the first `k` elements of the order to the front, sorted; the rest follow in an unspecified order.
///
/// # Panics
/// If `k` exceeds the length.
pub fn partial_sort<T: Copy>(items: &mut [T], k: usize, before: impl Fn(&T, &T) -> bool) {
    partial_sort_by(items, k, &before);
}

fn partial_sort_by<T: Copy>(items: &mut [T], k: usize, before: &impl Fn(&T, &T) -> bool) {
    let (heap, rest) = items.split_at_mut(k);
    if heap.is_empty() {
        return;
    }
    for parent in (0..heap.len() / 2).rev() {
        let value = heap[parent];
        sift(heap, parent, value, before);
    }
    for item in rest {
        if before(item, &heap[0]) {
            let value = *item;
            *item = heap[0];
            sift(heap, 0, value, before);
        }
    }
    for end in (1..heap.len()).rev() {
        let value = heap[end];
        heap[end] = heap[0];
        sift(&mut heap[..end], 0, value, before);
    }
}

/// Puts `value` into the heap below `start`, whose own element is free to overwrite.
///
/// The hole first sinks to a leaf along the later children, whatever `value` is, and `value` then climbs from there.
fn sift<T: Copy>(heap: &mut [T], start: usize, value: T, before: &impl Fn(&T, &T) -> bool) {
    let mut hole = start;
    loop {
        let (left, right) = (2 * hole + 1, 2 * hole + 2);
        let child = if right < heap.len() {
            if before(&heap[right], &heap[left]) { left } else { right }
        } else if left < heap.len() {
            left
        } else {
            break;
        };
        heap[hole] = heap[child];
        hole = child;
    }
    while hole > start {
        let parent = (hole - 1) / 2;
        if !before(&heap[parent], &value) {
            break;
        }
        heap[hole] = heap[parent];
        hole = parent;
    }
    heap[hole] = value;
}

/// The quicksort half of introsort: afterwards no element is further than one small piece from its place.
fn partition_down_to_small<T: Copy>(mut items: &mut [T], mut depth: u32, before: &impl Fn(&T, &T) -> bool) {
    while items.len() > SMALL {
        if depth == 0 {
            partial_sort_by(items, items.len(), before);
            return;
        }
        depth -= 1;
        let cut = partition(items, before);
        let (left, right) = items.split_at_mut(cut);
        partition_down_to_small(right, depth, before);
        items = left;
    }
}

/// Partitions around the median of the second, middle and last element; returns where the right part starts.
fn partition<T: Copy>(items: &mut [T], before: &impl Fn(&T, &T) -> bool) -> usize {
    let (second, middle, last) = (1, items.len() / 2, items.len() - 1);
    let less = |a: usize, b: usize| before(&items[a], &items[b]);
    let median = if less(second, middle) {
        if less(middle, last) {
            middle
        } else if less(second, last) {
            last
        } else {
            second
        }
    } else if less(second, last) {
        second
    } else if less(middle, last) {
        last
    } else {
        middle
    };
    items.swap(0, median);
    let pivot = items[0];

    // Both scans stop at an element equal to the pivot, so the median of three bounds them.
    let (mut left, mut right) = (1, items.len());
    loop {
        while before(&items[left], &pivot) {
            left += 1;
        }
        right -= 1;
        while before(&pivot, &items[right]) {
            right -= 1;
        }
        if left >= right {
            return left;
        }
        items.swap(left, right);
        left += 1;
    }
}

/// Equal elements keep their order, so this ends where libstdc++'s guarded and unguarded loops end.
fn insertion_sort<T: Copy>(items: &mut [T], before: &impl Fn(&T, &T) -> bool) {
    for i in 1..items.len() {
        let value = items[i];
        let mut hole = i;
        while hole > 0 && before(&value, &items[hole - 1]) {
            items[hole] = items[hole - 1];
            hole -= 1;
        }
        items[hole] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Elements that compare by their key alone; the tag shows which of the equal ones is where.
    fn tagged(keys: &[u8]) -> Vec<(u8, usize)> {
        keys.iter().copied().zip(0..).collect()
    }

    fn descending(a: &(u8, usize), b: &(u8, usize)) -> bool {
        a.0 > b.0
    }

    /// What `std::partial_sort` and `std::sort` of g++ 12 make of the same forty elements with five different keys.
    #[test]
    fn equal_elements_end_where_libstdcxx_leaves_them() {
        let items = tagged(&std::array::from_fn::<u8, 40, _>(|i| (i * 7 % 5) as u8));
        let tags = |items: &[(u8, usize)]| items.iter().map(|item| item.1).collect::<Vec<_>>();
        let mut partial = items.clone();
        partial_sort(&mut partial, 12, descending);
        assert_eq!(tags(&partial[..12]), [22, 17, 27, 7, 2, 37, 32, 12, 24, 14, 9, 4]);
        let mut sorted = items;
        sort(&mut sorted, descending);
        let want = [
            17, 2, 37, 22, 7, 32, 27, 12, 9, 24, 14, 29, 19, 34, 4, 39, 21, 1, 26, 31, 36, 16, 11, 6, 18, 23, 38, 13,
            28, 3, 8, 33, 0, 20, 5, 35, 10, 30, 15, 25,
        ];
        assert_eq!(tags(&sorted), want);
    }

    #[test]
    fn partial_sort_brings_the_first_to_the_front() {
        let mut items = tagged(&[3, 9, 1, 7, 9, 2]);
        partial_sort(&mut items, 3, descending);
        assert_eq!(items[..3].iter().map(|item| item.0).collect::<Vec<_>>(), [9, 9, 7]);
        partial_sort(&mut items, 0, descending);
        partial_sort(&mut [] as &mut [(u8, usize)], 0, descending);
    }

    proptest! {
        #[test]
        fn sort_sorts_and_loses_nothing(keys in proptest::collection::vec(0u8..20, 0..400)) {
            let mut items = tagged(&keys);
            sort(&mut items, descending);
            prop_assert!(items.is_sorted_by(|a, b| a.0 >= b.0));
            items.sort_by_key(|item| item.1);
            prop_assert_eq!(items, tagged(&keys));
        }

        #[test]
        fn partial_sort_keeps_the_largest(keys in proptest::collection::vec(0u8..20, 1..400), part in 0.0..=1.0f64) {
            let k = (part * keys.len() as f64) as usize;
            let mut items = tagged(&keys);
            partial_sort(&mut items, k, descending);
            let mut sorted = keys.clone();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(items[..k].iter().map(|item| item.0).collect::<Vec<_>>(), sorted[..k].to_vec());
            items.sort_by_key(|item| item.1);
            prop_assert_eq!(items, tagged(&keys));
        }

        #[test]
        fn adverse_input_still_sorts(length in 17usize..2000) {
            // Organ pipes drive the median of three towards its worst case, and so into the heap sort.
            let mut items: Vec<usize> = (0..length / 2).chain((0..length.div_ceil(2)).rev()).collect();
            sort(&mut items, |a, b| a < b);
            prop_assert!(items.is_sorted());
        }
    }
}
