//! Who gets a slot, and when.

use super::*;

const LIMITS: Limits = Limits { n_slots: 16, n_context: 200, n_batch: 2048, max_rows: 16, n_chunks: 16 };

#[test]
fn slots_are_given_together_where_more_wait() {
    let talk = |(index, prompt): (usize, Vec<u32>)| Talk::new(&prompt, Rule::Greedy, 20 + index * 29 % 41);
    let (runner, done) = all_at_once(200, LIMITS, different(200, 7).enumerate().map(talk));
    // Of some 200 prompts behind the first 16 each would be a pass.
    assert!(runner.n_passes < 80, "{} passes, {done:?}", runner.n_passes);
    // And few tokens of a full company are missing, the end among them, where nobody is left to come.
    let full = done.n_decoded.div_ceil(16);
    assert!(done.n_steps < full + full / 5, "{} steps of {full}: {done:?}", done.n_steps);
}

#[test]
fn who_finds_a_slot_begins_at_once() {
    let (mut runner, mut scheduler) = one_group(200, LIMITS);
    let mut prompts = different(24, 7);
    let mut submit = |runner: &Fake, scheduler: &mut Scheduler<Talk>| {
        let prompt = prompts.next().expect("a prompt");
        scheduler.submit(runner, &prompt, [Talk::new(&prompt, Rule::Greedy, 100)]).unwrap()[0]
    };
    for n_active in 1..=16 {
        submit(&runner, &mut scheduler);
        unwrap(scheduler.step(&mut runner));
        assert_eq!(scheduler.active().filter(|progress| progress.n_generated > 0).count(), n_active);
    }
    // Of the next ones the first finds one as soon as it is free, for nobody else waits.
    let waits = submit(&runner, &mut scheduler);
    unwrap(scheduler.step(&mut runner));
    assert!(scheduler.n_waiting() == 1);
    scheduler.cancel(&mut runner, 3);
    unwrap(scheduler.step(&mut runner));
    assert!(scheduler.active().any(|progress| progress.key == waits && progress.n_generated > 0));
    // Where three wait for one that is free, it stands empty for as many steps as there are slots, or until there is one for each.
    for _ in 0..3 {
        submit(&runner, &mut scheduler);
    }
    scheduler.cancel(&mut runner, 5);
    for _ in 0..15 {
        unwrap(scheduler.step(&mut runner));
        assert_eq!((scheduler.n_waiting(), scheduler.n_active()), (3, 15));
    }
    unwrap(scheduler.step(&mut runner));
    assert_eq!((scheduler.n_waiting(), scheduler.n_active()), (2, 16));
    scheduler.cancel(&mut runner, 6);
    unwrap(scheduler.step(&mut runner));
    assert_eq!((scheduler.n_waiting(), scheduler.n_active()), (2, 15));
    scheduler.cancel(&mut runner, 7);
    unwrap(scheduler.step(&mut runner));
    assert_eq!((scheduler.n_waiting(), scheduler.n_active()), (0, 16));
}
