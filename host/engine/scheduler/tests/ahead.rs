//! Steps that are begun before the choices are read.

use super::*;

const LIMITS: Limits = Limits { n_slots: 8, n_context: 200, n_batch: 64, max_rows: 8, n_chunks: 8 };

fn greedy(n: u32, n_wanted: impl Fn(usize) -> usize) -> impl Iterator<Item = Talk> {
    different(n, 7).enumerate().map(move |(index, prompt)| Talk::new(&prompt, Rule::Greedy, n_wanted(index)))
}

#[test]
fn sequences_that_end_leave_a_step_that_the_others_go_on_with() {
    let (runner, done) = all_at_once(60, LIMITS, greedy(6, |index| 10 + 5 * index));
    assert_eq!(runner.n_in_vain, 0, "{done:?}");
    // The first steps are beside prompts, and the last has none behind it.
    assert!(runner.n_gone_on as u64 >= done.n_steps - 4, "{} of {done:?}", runner.n_gone_on);
}

#[test]
fn none_is_begun_where_one_does_not_take_the_largest() {
    let one_draws = greedy(6, |_| 20)
        .enumerate()
        .map(|(index, talk)| Talk { rule: if index == 3 { Rule::Largest } else { talk.rule }, ..talk });
    let (runner, _) = all_at_once(60, LIMITS, one_draws);
    assert_eq!([runner.n_gone_on, runner.n_in_vain], [0, 0]);
}

#[test]
fn who_is_cancelled_and_who_comes_change_nothing() {
    let limits = Limits { n_slots: 4, max_rows: 4, n_chunks: 4, ..LIMITS };
    let (mut runner, mut scheduler) = one_group(28, limits);
    let mut asked = BTreeMap::new();
    let mut waiting = greedy(12, |index| 30 + index);
    let mut n_ended = 0;
    for step in 0.. {
        if step % 7 == 0
            && let Some(task) = waiting.next()
        {
            asked.insert(scheduler.submit(&runner, &task.prompt, [task.clone()]).unwrap()[0], task);
        }
        // Between a step and the one that was begun behind it.
        if step % 31 == 30
            && let Some(key) = scheduler.active.first().map(|(_, live)| live.key)
        {
            assert!(scheduler.cancel(&mut runner, key).is_some());
            n_ended += 1;
        }
        for Finished { key, task, end, .. } in unwrap(scheduler.step(&mut runner)) {
            assert_eq!((task.result(), end), alone(&runner.groups, 64, asked[&key].clone(), 200));
            n_ended += 1;
        }
        if n_ended == 12 {
            break;
        }
    }
    assert!(runner.n_gone_on > 50, "{} gone on, {} in vain", runner.n_gone_on, runner.n_in_vain);
    assert_eq!(runner.pages.free(0), 28);
}
