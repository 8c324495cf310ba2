//! How much work is taken at a time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::http::StatusCode;

use super::Failure;

/// Counts the answers that were promised and are not written yet.
#[derive(Debug)]
pub struct Admission {
    n_open: AtomicUsize,
    n_slots: usize,
    max_waiting: usize,
}

/// A place among those that are answered; gives it back when dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    n_answers: usize,
}

impl Admission {
    /// For `n_slots` answers that are written, and `max_waiting` that wait for it.
    pub fn new(n_slots: usize, max_waiting: usize) -> Admission {
        Admission { n_open: AtomicUsize::new(0), n_slots, max_waiting }
    }

    /// Answers promised.
    pub fn n_open(&self) -> usize {
        self.n_open.load(Ordering::SeqCst)
    }

    /// A place for a request with so many answers.
    ///
    /// # Errors
    /// There is none now, or never.
    pub fn enter(self: &Arc<Admission>, n_answers: usize) -> Result<Place, Failure> {
        let room = self.n_slots + self.max_waiting;
        if n_answers > room {
            let message = format!("n: found {n_answers} answers in one request, expected at most {room}");
            return Err(Failure::invalid("n", message));
        }
        let enter = |n_open: usize| Some(n_open + n_answers).filter(|n| *n <= room);
        match self.n_open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter) {
            Ok(_) => Ok(Place { admission: Arc::clone(self), n_answers }),
            Err(n_open) => {
                // Each row of those that wait takes about as long as the one before.
                let rows = n_open.saturating_sub(self.n_slots) / self.n_slots.max(1);
                let message = format!(
                    "{n_open} answers are being written or waited for, and there is room for {room}; ask again later"
                );
                Err(Failure {
                    retry_after: Some(1 + rows as u64),
                    ..Failure::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
                })
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.n_open.fetch_sub(self.n_answers, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_the_wait_is_told() {
        let admission = Arc::new(Admission::new(2, 3));
        let first = admission.enter(3).unwrap();
        let _second = admission.enter(2).unwrap();
        let full = admission.enter(1).unwrap_err();
        assert_eq!((full.status.as_u16(), full.retry_after), (429, Some(2)));
        drop(first);
        assert_eq!(admission.n_open(), 2);
        assert_eq!(admission.enter(6).unwrap_err().status.as_u16(), 400);
        assert!(admission.enter(3).is_ok());
    }
}
