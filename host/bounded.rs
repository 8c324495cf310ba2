//! Work on what a stranger wrote, with an end: a bound on its stack, its memory and its time.
//!
//! Templates and grammars are programs, and the crates that run them bound some of what those may do. What they do not bound
//! are the sizes: of a string that is doubled sixty times, of a comparison of lists that share their parts. So the work goes
//! to a thread of its own, which has a large stack, and whose allocations are counted by [`Allocator`]. A thread that
//! asks for more than it may have is never given it: it stops where it is, for good, and [`run`] says so. What the thread
//! had until then stays taken, up to the limit; it is one per such failure, and failures end a command.
//!
//! The count needs [`Allocator`] to be the program's allocator, as it is in `main.rs`. Without it memory is not bounded.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io,
    marker::PhantomData,
    panic::resume_unwind,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// What work may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of stack.
    pub stack: usize,
    /// Bytes that may be allocated at any one time.
    pub memory: usize,
    /// How long the caller waits.
    pub time: Duration,
}

/// Why work did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Exceeded {
    /// It wanted more memory.
    #[error("it takes more than {} MiB of memory", .0 >> 20)]
    Memory(usize),
    /// It took longer.
    #[error("it takes more than {} seconds", .0.as_secs())]
    Time(Duration),
    /// It could not be begun.
    #[error("there is no thread to run it: {0}")]
    Thread(io::Error),
}

/// Does `work` within `limits`. A panic in it goes on in the caller.
///
/// # Errors
/// [`Exceeded`].
pub fn run<T: Send + 'static>(limits: Limits, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Exceeded> {
    let exceeded = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = channel();
    let flag = Arc::clone(&exceeded);
    let worker = thread::Builder::new().stack_size(limits.stack).spawn(move || {
        let counting = Counting::begin(limits.memory, &flag);
        let result = work();
        drop(counting);
        // Whoever asked has stopped waiting if nobody takes it.
        let _ = sender.send(result);
    });
    let worker = worker.map_err(Exceeded::Thread)?;
    let start = Instant::now();
    loop {
        match receiver.recv_timeout(Duration::from_millis(5)) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => match worker.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => unreachable!("the worker sends before it ends"),
            },
            Err(RecvTimeoutError::Timeout) if exceeded.load(Ordering::Relaxed) => {
                return Err(Exceeded::Memory(limits.memory));
            }
            Err(RecvTimeoutError::Timeout) if start.elapsed() > limits.time => return Err(Exceeded::Time(limits.time)),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// What a thread may still allocate, and where it says that it wanted more. A null pointer: it has no bound.
#[derive(Clone, Copy)]
struct Budget {
    left: isize,
    exceeded: *const AtomicBool,
}

const NO_BUDGET: Budget = Budget { left: 0, exceeded: ptr::null() };

thread_local! {
    // Constant and without a destructor, so that the allocator can use it at any time in a thread's life.
    static BUDGET: Cell<Budget> = const { Cell::new(NO_BUDGET) };
}

/// While this lives, the thread's allocations are counted; it ends before the flag does, in a panic too.
struct Counting<'a>(PhantomData<&'a AtomicBool>);

impl<'a> Counting<'a> {
    fn begin(memory: usize, exceeded: &'a AtomicBool) -> Counting<'a> {
        BUDGET.set(Budget { left: memory as isize, exceeded: ptr::from_ref(exceeded) });
        Counting(PhantomData)
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        BUDGET.set(NO_BUDGET);
    }
}

/// The system's allocator, which holds the threads of [`run`] to their bounds.
pub struct Allocator;

impl Allocator {
    /// Takes `bytes` (fewer than none: gives them back) from what the thread may still have; does not return if that is too little.
    fn take(bytes: isize) {
        let mut budget = BUDGET.get();
        if budget.exceeded.is_null() {
            return;
        }
        budget.left = budget.left.saturating_sub(bytes);
        BUDGET.set(budget);
        // A panic's message and backtrace are written under locks of the standard library's, with which nobody may stop.
        if bytes > 0 && budget.left < 0 && !thread::panicking() {
            // SAFETY: `Counting` sets the pointer back before the flag, which it borrows, is gone.
            unsafe { (*budget.exceeded).store(true, Ordering::Relaxed) };
            loop {
                thread::sleep(Duration::from_secs(3600));
            }
        }
    }
}

// SAFETY: every call goes to the system's allocator unchanged, or does not return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Allocator::take(layout.size() as isize);
        // SAFETY: the caller keeps `alloc`'s contract, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Allocator::take(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Allocator::take(new_size as isize - layout.size() as isize);
        // SAFETY: as above; `pointer` came from `System` with `layout`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Allocator::take(-(layout.size() as isize));
        // SAFETY: `pointer` came from `System` with `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The tests of the library have no allocator of their own; this makes the bound on memory one of those tests'.
    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    const LIMITS: Limits = Limits { stack: 1 << 20, memory: 1 << 20, time: Duration::from_secs(60) };

    #[test]
    fn work_within_its_limits_is_done() {
        let sums = run(LIMITS, || (0..100).map(|n| vec![n; 1 << 14].len()).sum::<usize>());
        assert_eq!(sums.unwrap(), 100 << 14);
    }

    #[test]
    fn memory_and_time_have_an_end() {
        let grown = run(LIMITS, || {
            let mut text = String::from("a");
            while text.len() < 1 << 40 {
                text = text.repeat(2);
            }
            text.len()
        });
        assert!(matches!(grown, Err(Exceeded::Memory(_))), "{grown:?}");
        let kept = run(LIMITS, || (0..10_000).map(|n| vec![n; 1 << 10]).collect::<Vec<_>>().len());
        assert!(matches!(kept, Err(Exceeded::Memory(_))), "{kept:?}");
        let short = Limits { time: Duration::from_millis(20), ..LIMITS };
        let slow = run(short, || thread::sleep(Duration::from_secs(600)));
        assert!(matches!(slow, Err(Exceeded::Time(_))), "{slow:?}");
    }

    #[test]
    #[should_panic(expected = "so it goes on")]
    fn a_panic_goes_on_in_the_caller() {
        let _ = run(LIMITS, || panic!("so it goes on"));
    }
}
