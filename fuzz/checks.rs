//! What must hold for every file, whatever is in it: an answer, no panic, only what exists is handed out, and no file of a few
//! kilobytes makes the loader ask for more than a few megabytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrowarp::gguf::Gguf;
use ferrowarp::model::{Inspection, Model};

/// Far below the gigabyte that must never be asked for, and far above what a small model takes.
const LARGEST_ALLOWED: usize = 8 << 20;

/// The system's allocator, which remembers the largest request.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` with `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Reads `bytes` as a model file, as far as that goes.
pub fn bytes(bytes: &[u8]) {
    read(bytes);
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < LARGEST_ALLOWED, "{largest} bytes were asked for at once");
}

fn read(bytes: &[u8]) {
    let gguf = match Gguf::from_bytes(bytes.to_vec(), "fuzz.gguf") {
        Ok(gguf) => gguf,
        Err(error) => return one_line(&error.to_string()),
    };
    for tensor in gguf.tensors() {
        assert_eq!(gguf.data(tensor).len() as u64, tensor.bytes);
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
    }
    // Long tables of text say nothing new about the loader.
    if gguf.metadata().len() + gguf.tensors().len() < 16 {
        assert!(!Inspection::new(&gguf).to_string().is_empty());
    }
    let model = match Model::open(&gguf) {
        Ok(model) => model,
        Err(error) => return one_line(&error.to_string()),
    };
    let (config, figure) = (&model.config, &model.figure);
    assert_eq!(figure.layers.len(), config.n_layers);
    let embedding = model.named("token_embd.weight");
    assert_eq!(embedding.row(config.vocab_size - 1).len(), embedding.row_bytes());
    for shape in &figure.ropes {
        let rope = shape.table(config.context_length);
        assert_eq!(rope.frequencies.len(), shape.n_rot / 2);
        assert!(rope.frequencies.iter().all(|f| f.is_finite()), "{shape:?} gives {rope:?}");
    }
}

fn one_line(message: &str) {
    assert!(message.starts_with("fuzz.gguf: ") && !message.contains('\n'), "{message:?}");
}
