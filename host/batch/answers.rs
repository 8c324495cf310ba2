//! The file of answers, which is added to and never rewritten.
//!
//! An answer is written with its line end in one piece, and only then counts. A run that is killed, or whose disk is full, leaves whole
//! answers and perhaps a part of one behind them: the next run cuts that off and goes on. Answers are in the order of their requests, and each
//! has an `id` that comes of its request's place and text, so a run knows answers to other requests and leaves them alone.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Error, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::Requests;

/// Why answers cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum AnswersError {
    #[error("{file}: cannot {action} answers: {source}")]
    Io { file: String, action: &'static str, source: Error },
    #[error("{file}: another run writes to it; wait for its end, or choose another file with -o")]
    Locked { file: String },
    #[error(
        "{file}, line {line}: found {found}, expected the answer with id {expected:?}: the file holds answers to other requests; \
         delete it, or choose another with -o"
    )]
    Other { file: String, line: usize, found: String, expected: String },
    #[error("{file}, line {line}: found more answers than there are requests; delete it, or choose another with -o")]
    More { file: String, line: usize },
    #[error("{file}: cannot read prompts: {source}")]
    Requests { file: String, source: Error },
}

/// Answers, the last one whole.
pub struct AnswersFile {
    file: File,
    path: PathBuf,
    n_bytes: u64,
    n_found: usize,
}

impl AnswersFile {
    /// Opens the file, which other runs then cannot, and takes the requests that it has answers to from `requests`.
    ///
    /// # Errors
    /// [`AnswersError`].
    pub fn open(path: &Path, requests: &mut Requests, prompts: &Path) -> Result<AnswersFile, AnswersError> {
        let name = || path.display().to_string();
        let io = |action| move |source| AnswersError::Io { file: path.display().to_string(), action, source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = options.map_err(io("open the file of"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(AnswersError::Locked { file: name() }),
            Err(std::fs::TryLockError::Error(source)) => return Err(io("lock the file of")(source)),
        }
        let mut lines = BufReader::new(&file);
        let (mut n_bytes, mut n_found) = (0, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = lines.read_until(b'\n', &mut line).map_err(io("read"))?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let request = requests.next();
            let request =
                request.map_err(|source| AnswersError::Requests { file: prompts.display().to_string(), source })?;
            let Some(request) = request else {
                return Err(AnswersError::More { file: name(), line: n_found + 1 });
            };
            let expected = request.id();
            let found = match serde_json::from_slice::<Value>(&line) {
                Ok(answer) => match answer["id"].as_str() {
                    Some(id) if id == expected => None,
                    Some(id) => Some(format!("the id {id:?}")),
                    None => Some("an object without an id".to_owned()),
                },
                Err(_) => Some("no JSON".to_owned()),
            };
            if let Some(found) = found {
                return Err(AnswersError::Other { file: name(), line: n_found + 1, found, expected });
            }
            n_bytes += n as u64;
            n_found += 1;
        }
        let mut answers = AnswersFile { file, path: path.to_owned(), n_bytes, n_found };
        answers.cut().map_err(io("cut the torn last one of"))?;
        Ok(answers)
    }

    /// Answers that were there.
    pub fn n_found(&self) -> usize {
        self.n_found
    }

    /// Adds an answer, a line of JSON without its end.
    ///
    /// # Errors
    /// Writing failed; what was there before is there still.
    pub fn push(&mut self, mut line: String) -> Result<(), AnswersError> {
        debug_assert!(!line.contains('\n'));
        line.push('\n');
        if let Err(source) = self.file.write_all(line.as_bytes()) {
            // If this fails too, the next run does it.
            let _ = self.cut();
            return Err(AnswersError::Io { file: self.path.display().to_string(), action: "write", source });
        }
        self.n_bytes += line.len() as u64;
        Ok(())
    }

    /// Waits until all is on the disk.
    ///
    /// # Errors
    /// It will not be.
    pub fn finish(self) -> Result<(), AnswersError> {
        let io = |source| AnswersError::Io { file: self.path.display().to_string(), action: "write", source };
        self.file.sync_all().map_err(io)
    }

    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.n_bytes)?;
        self.file.seek(SeekFrom::Start(self.n_bytes)).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_torn_anywhere_goes_on_to_the_same_answers() {
        let folder = tempfile::tempdir().unwrap();
        let (prompts, path) = (folder.path().join("prompts"), folder.path().join("answers"));
        std::fs::write(&prompts, "one\ntwo\nthree\n").unwrap();
        let run = |n_most: usize| -> Result<usize, AnswersError> {
            let mut requests = Requests::open(&prompts, None).unwrap();
            let mut answers = AnswersFile::open(&path, &mut requests, &prompts)?;
            let n_found = answers.n_found();
            for _ in 0..n_most {
                let Some(line) = requests.next().unwrap() else { break };
                answers.push(format!("{{\"id\":\"{}\",\"says\":\"{}\"}}", line.id(), "é".repeat(line.number)))?;
            }
            answers.finish()?;
            Ok(n_found)
        };
        assert_eq!(run(9).unwrap(), 0);
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(run(9).unwrap(), ends.iter().filter(|end| **end < cut).count(), "cut at {cut}");
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {cut}");
        }
        std::fs::remove_file(&path).unwrap();
        (0..4).for_each(|n| assert_eq!(run(1).unwrap(), n.min(3)));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        // Other requests, or fewer.
        std::fs::write(&prompts, "one\n2\nthree\n").unwrap();
        let error = run(9).unwrap_err().to_string();
        assert!(error.contains("line 2: found the id \"batch_req_2_"), "{error}");
        std::fs::write(&prompts, "one\n").unwrap();
        assert!(matches!(run(9), Err(AnswersError::More { line: 2, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn two_runs_do_not_write_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let (prompts, path) = (folder.path().join("prompts"), folder.path().join("answers"));
        std::fs::write(&prompts, "one\n").unwrap();
        let open = || AnswersFile::open(&path, &mut Requests::open(&prompts, None).unwrap(), &prompts);
        let first = open().unwrap();
        assert!(matches!(open(), Err(AnswersError::Locked { .. })));
        drop(first);
        assert!(open().is_ok());
    }
}
