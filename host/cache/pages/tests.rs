//! The accounts against a memory that is written as a device would: whatever is done, each sequence finds its own tokens.

use proptest::prelude::*;

use super::*;

/// Accounts, with what a device would have in the pages: at each position a sum over the tokens up to it and how they came.
struct Device {
    pages: Pages,
    memory: Vec<Vec<[u64; POSITIONS]>>,
    open: Vec<(SequenceId, Vec<(u32, Origin)>)>,
}

fn sums(tokens: &[(u32, Origin)]) -> Vec<u64> {
    let next = |sum: &mut u64, (token, origin): &(u32, Origin)| {
        let word = u64::from(*token) << 1 | u64::from(*origin == Origin::Token);
        *sum = (*sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        Some(*sum)
    };
    tokens.iter().scan(1, next).collect()
}

impl Device {
    fn new(groups: &[Group], n_slots: usize, n_batch: usize) -> Device {
        let memory = groups.iter().map(|group| vec![[0; POSITIONS]; group.n_pages]).collect();
        Device { pages: Pages::new(groups, n_slots, n_batch), memory, open: Vec::new() }
    }

    /// As [`Pages::reserve`], the device's step and [`Pages::advance`].
    fn extend(&mut self, at: usize, tokens: &[u32], origin: Origin) -> Result<(), Shortage> {
        let (id, so_far) = &mut self.open[at];
        for copy in self.pages.reserve(*id, tokens.len())? {
            self.memory[copy.group][copy.to as usize] = self.memory[copy.group][copy.from as usize];
        }
        let n_before = so_far.len();
        so_far.extend(tokens.iter().map(|token| (*token, origin)));
        let sums = sums(so_far);
        for (group, memory) in self.memory.iter_mut().enumerate() {
            let table = self.pages.table(*id, group);
            for (position, sum) in sums.iter().enumerate().skip(n_before) {
                memory[table[position / POSITIONS] as usize][position % POSITIONS] = *sum;
            }
        }
        self.pages.advance(*id, tokens, origin);
        Ok(())
    }

    fn adopt(&mut self, tokens: &[u32], n_prompt: usize) -> Option<usize> {
        let id = self.pages.open()?;
        let n = self.pages.adopt(id, tokens, n_prompt);
        let origin = |index| if index < n_prompt { Origin::Prompt } else { Origin::Token };
        self.open.push((id, tokens[..n].iter().enumerate().map(|(index, token)| (*token, origin(index))).collect()));
        Some(n)
    }

    fn close(&mut self, at: usize) {
        let (id, _) = self.open.swap_remove(at);
        self.pages.close(id);
    }

    /// Everything that must always hold.
    fn check(&self) {
        let pages = &self.pages;
        for (group, pool) in pages.pools.iter().enumerate() {
            let mut n_owners = vec![0; pool.pages.len()];
            for sequence in pages.sequences.iter().flatten() {
                let table = &sequence.tables[group];
                assert!(table.first <= table.pages.len());
                table.pages[table.first..].iter().for_each(|page| n_owners[*page as usize] += 1);
            }
            let mut places = vec![0; pool.pages.len()];
            pool.free.iter().for_each(|page| places[*page as usize] += 1);
            pool.cached.values().for_each(|page| places[*page as usize] += 1);
            for (number, page) in pool.pages.iter().enumerate() {
                assert_eq!(page.n_owners, n_owners[number], "owners of page {number} of group {group}");
                assert_eq!(places[number], usize::from(page.n_owners == 0), "places of page {number}");
                if page.node != NONE {
                    assert_eq!(pages.node(page.node).pages[group], number as u32);
                    assert!(page.n_owners > 0 || pool.cached[&page.released] == number as u32);
                }
            }
            assert!(pool.free.iter().all(|page| pool.pages[*page as usize].node == NONE));
        }
        let mut n_users = vec![0; pages.nodes.len()];
        let of_sequences = pages.sequences.iter().flatten().map(|sequence| sequence.node);
        let of_nodes = pages.nodes.iter().flatten().map(|node| node.content.parent);
        of_sequences.chain(of_nodes).filter(|node| *node != NONE).for_each(|node| n_users[node as usize] += 1);
        for (number, node) in pages.nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            assert_eq!(node.n_users, n_users[number], "users of node {number}");
            assert_eq!(pages.contents[&node.content], number as u32);
            assert!(node.n_users > 0 || node.pages.iter().any(|page| *page != NONE), "node {number} is of no use");
            for (group, page) in node.pages.iter().enumerate().filter(|(_, page)| **page != NONE) {
                assert_eq!(pages.pools[group].pages[*page as usize].node, number as u32);
            }
        }
        assert_eq!(pages.contents.len(), pages.nodes.iter().flatten().count());
        for (id, tokens) in &self.open {
            assert_eq!(pages.n_tokens(*id), tokens.len());
            let sums = sums(tokens);
            for (group, pool) in pages.pools.iter().enumerate() {
                let first = pool.group.window.map_or(0, |window| (tokens.len() + 1).saturating_sub(window));
                for (position, sum) in sums.iter().enumerate().take(tokens.len()).skip(first) {
                    let page = pages.table(*id, group)[position / POSITIONS] as usize;
                    let found = self.memory[group][page][position % POSITIONS];
                    assert_eq!(found, *sum, "group {group}, position {position} of {}", tokens.len());
                }
            }
        }
    }
}

/// Texts that begin alike and part: the text's number decides from some position on.
fn text(number: usize, range: Range<usize>) -> Vec<u32> {
    range
        .map(|position| (position * 7 % 13 + if position >= 40 * (number % 3 + 1) { number } else { 0 }) as u32)
        .collect()
}

#[derive(Clone, Debug)]
enum Act {
    Adopt { text: usize, n: usize, n_prompt: usize },
    Extend { which: usize, n: usize, text: usize, alone: bool },
    Truncate { which: usize, n: usize },
    Fork { which: usize },
    Close { which: usize },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0usize..5, 1usize..260, 0usize..260).prop_map(|(text, n, n_prompt)| Act::Adopt { text, n, n_prompt }),
        6 => (0usize..9, 1usize..80, 0usize..5, any::<bool>())
            .prop_map(|(which, n, text, alone)| Act::Extend { which, n, text, alone }),
        1 => (0usize..9, 0usize..260).prop_map(|(which, n)| Act::Truncate { which, n }),
        1 => (0usize..9).prop_map(|which| Act::Fork { which }),
        1 => (0usize..9).prop_map(|which| Act::Close { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_sequence_finds_its_own_tokens(
        n_pages in proptest::collection::vec(4usize..24, 3),
        window in 1usize..100,
        acts in proptest::collection::vec(act(), 1..80),
    ) {
        let windows = [None, Some(window), Some(33)];
        let groups: Vec<Group> =
            windows.into_iter().zip(&n_pages).map(|(window, n_pages)| Group { window, n_pages: *n_pages }).collect();
        let mut device = Device::new(&groups, 6, 80);
        for act in acts {
            let n_open = device.open.len();
            match act {
                Act::Adopt { text: number, n, n_prompt } => {
                    let n = device.adopt(&text(number, 0..n), n_prompt).map_or(0, |adopted| { assert!(adopted < n); adopted });
                    prop_assert_eq!(n % POSITIONS, 0);
                }
                Act::Extend { which, n, text: number, alone } if n_open > 0 => {
                    let at = which % n_open;
                    let (id, so_far) = &device.open[at];
                    let (id, n_before) = (*id, so_far.len());
                    let before: Vec<_> = (0..3).map(|group| (device.pages.free(group), device.pages.table(id, group).to_vec())).collect();
                    let origin = if alone { Origin::Token } else { Origin::Prompt };
                    if let Err(shortage) = device.extend(at, &text(number, n_before..n_before + n), origin) {
                        prop_assert!(shortage.needed > shortage.available);
                        prop_assert_eq!(shortage.available, before[shortage.group].0);
                        for (group, before) in before.iter().enumerate() {
                            prop_assert_eq!(&(device.pages.free(group), device.pages.table(id, group).to_vec()), before);
                        }
                        if n_open == 1 {
                            prop_assert!(device.pages.fits_alone(n_before + n).is_err(), "it is alone");
                        }
                    }
                }
                Act::Truncate { which, n } if n_open > 0 => {
                    let (id, so_far) = &mut device.open[which % n_open];
                    let wanted = n.min(so_far.len());
                    let left = device.pages.truncate(*id, n);
                    prop_assert!(left <= wanted);
                    // Without windows nothing is out of reach.
                    prop_assert!(left == wanted || left.is_multiple_of(POSITIONS));
                    so_far.truncate(left);
                }
                Act::Fork { which } if n_open > 0 => {
                    let (id, tokens) = device.open[which % n_open].clone();
                    match device.pages.fork(id) {
                        Some(fork) => device.open.push((fork, tokens)),
                        None => prop_assert_eq!(n_open, 6),
                    }
                }
                Act::Close { which } if n_open > 0 => device.close(which % n_open),
                _ => {}
            }
            device.check();
        }
        while !device.open.is_empty() {
            device.close(0);
        }
        device.check();
        for (group, n_pages) in n_pages.iter().enumerate() {
            prop_assert_eq!(device.pages.free(group), *n_pages);
        }
    }
}

fn all(n_pages: usize) -> Vec<Group> {
    vec![Group { window: None, n_pages }]
}

#[test]
fn a_beginning_is_shared_and_stays_until_its_pages_are_taken() {
    let mut device = Device::new(&all(8), 4, 256);
    let tokens = text(0, 0..100);
    assert_eq!(device.adopt(&tokens, 100), Some(0));
    device.extend(0, &tokens, Origin::Prompt).unwrap();
    assert_eq!(device.pages.free(0), 4);
    // Beside its owner, and after it; never the whole prompt.
    assert_eq!(device.adopt(&tokens, 100), Some(96));
    assert_eq!(device.adopt(&tokens[..96], 96), Some(64));
    assert_eq!(device.pages.free(0), 4);
    // By another pass, it is something else.
    assert_eq!(device.adopt(&tokens, 40), Some(32));
    (0..4).for_each(|_| device.close(0));
    assert_eq!(device.pages.free(0), 8);
    // Seven pages for another: the four without content, and of the ended sequence the last first.
    device.adopt(&text(4, 0..1), 1);
    device.extend(0, &vec![9; 7 * POSITIONS - 10], Origin::Prompt).unwrap();
    assert_eq!(device.adopt(&tokens, 100), Some(32));
    device.check();
}

#[test]
fn the_content_used_last_stays_the_longest() {
    let mut device = Device::new(&all(4), 4, 256);
    for number in [1u32, 2, 3] {
        device.adopt(&[number; 33], 33);
        device.extend(0, &[number; 32], Origin::Prompt).unwrap();
        device.close(0);
    }
    // The first is used once more; then two pages are wanted.
    assert_eq!(device.adopt(&[1; 33], 33), Some(32));
    device.close(0);
    device.adopt(&[7], 1);
    device.extend(0, &[7; 64], Origin::Prompt).unwrap();
    let there = [1u32, 2, 3].map(|number| device.adopt(&[number; 33], 33));
    assert_eq!(there, [Some(32), Some(0), Some(32)]);
}

#[test]
fn a_fork_costs_a_page_when_it_writes() {
    let mut device = Device::new(&all(8), 4, 256);
    device.adopt(&text(0, 0..50), 50);
    device.extend(0, &text(0, 0..50), Origin::Prompt).unwrap();
    let (id, tokens) = device.open[0].clone();
    let fork = device.pages.fork(id).unwrap();
    device.open.push((fork, tokens));
    assert_eq!(device.pages.free(0), 6);
    assert_eq!(device.pages.take_changes(fork, 0), 0..2);
    assert_eq!(device.pages.take_changes(fork, 0), 0..0);
    device.extend(1, &[1], Origin::Token).unwrap();
    assert_eq!((device.pages.free(0), device.pages.take_changes(fork, 0)), (5, 1..2));
    // Now the other is its only owner.
    device.extend(0, &[2], Origin::Token).unwrap();
    assert_eq!(device.pages.free(0), 5);
    device.check();
}

#[test]
fn a_window_lets_go_what_it_passed_and_gets_back_what_is_still_there() {
    let groups = [Group { window: None, n_pages: 20 }, Group { window: Some(40), n_pages: 4 }];
    let mut device = Device::new(&groups, 2, POSITIONS);
    device.adopt(&[0], 1);
    for index in 0..10 {
        device.extend(0, &text(0, index * 32..index * 32 + 32), Origin::Prompt).unwrap();
        device.check();
    }
    // The token at 320 sees from 281 on.
    assert_eq!(device.pages.free(1), 2);
    let id = device.open[0].0;
    // The token at 300 sees from 261 on, in page 8, which is still its own; that at 270 needs page 7, which nobody took.
    assert_eq!(device.pages.truncate(id, 300), 300);
    assert_eq!(device.pages.truncate(id, 270), 270);
    // At 200, page 5: gone. So are the pages before.
    assert_eq!(device.pages.truncate(id, 200), 0);
    device.open[0].1.clear();
    device.check();
}

#[test]
fn what_never_fits_is_said_with_numbers() {
    let groups = [Group { window: None, n_pages: 10 }, Group { window: Some(64), n_pages: 5 }];
    let pages = Pages::new(&groups, 2, 64);
    assert_eq!(pages.fits_alone(320), Ok(()));
    assert_eq!(pages.fits_alone(321), Err(Shortage { group: 0, needed: 11, available: 10 }));
    let pages = Pages::new(&groups, 2, 128);
    assert_eq!(pages.fits_alone(320), Err(Shortage { group: 1, needed: 7, available: 5 }));
    assert!(pages.fits_alone(161).unwrap_err().to_string().starts_with("6 cache pages of 32 positions are needed, 5"));
}

proptest! {
    /// Guesses that were wrong leave nothing: pages and tables are those of a sequence that never had them, windows or not, and what was
    /// passed is there again.
    #[test]
    fn taking_back_what_a_step_added_leaves_the_pages_as_they_were(
        windows in proptest::collection::vec(proptest::option::of(1usize..80), 1..3),
        n_prompt in 1usize..90,
        steps in proptest::collection::vec((0usize..9, 0usize..9), 1..40),
    ) {
        let groups: Vec<Group> = windows.iter().map(|window| Group { window: *window, n_pages: 20 }).collect();
        let [mut guesses, mut plain] = [(), ()].map(|()| Device::new(&groups, 2, 96));
        for device in [&mut guesses, &mut plain] {
            device.adopt(&[], 0);
            device.extend(0, &text(1, 0..n_prompt), Origin::Prompt).unwrap();
        }
        let id = guesses.open[0].0;
        let mut n = n_prompt;
        for (n_drafted, n_kept) in steps {
            let n_kept = n_kept.min(n_drafted);
            let right = text(1, n..n + 1 + n_kept);
            let wrong = vec![99; n_drafted - n_kept];
            guesses.extend(0, &[right.as_slice(), &wrong].concat(), Origin::Token).unwrap();
            let n_left = n + 1 + n_kept;
            prop_assert_eq!(guesses.pages.truncate(id, n_left), n_left);
            guesses.open[0].1.truncate(n_left);
            plain.extend(0, &right, Origin::Token).unwrap();
            n = n_left;
            guesses.check();
            for group in 0..groups.len() {
                let of = |device: &Device| {
                    (device.pages.free(group), device.pages.table(id, group).len(), device.pages.first_page(id, group))
                };
                prop_assert_eq!(of(&guesses), of(&plain), "group {} after {} tokens", group, n);
            }
        }
        for device in [&mut guesses, &mut plain] {
            device.close(0);
            prop_assert!(device.pages.n_taken().0 == 0);
        }
    }
}
