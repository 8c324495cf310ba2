//! The kernels as the build compiled them, and which of the compiled forms a device gets.
//!
//! The same sources are compiled for more than one generation of GPU. A device runs what was compiled for it or for an
//! earlier one, except that a target whose name ends in `a` runs on its own generation only: `sm_90a` is for compute
//! capability 9.0 (H100, H200), `sm_80` for 8.0 and everything after it. The newest that runs is the best.
//!
//! softcuda reports compute capability 9.0, so what is tested without a GPU is what a Hopper runs. `FERROWARP_IMAGE=sm_80`
//! asks for another image, on either device.

use std::env;

/// The environment variable that names an image.
pub const VARIABLE: &str = "FERROWARP_IMAGE";

/// All kernels, compiled for one target.
#[derive(Debug)]
pub struct Image {
    /// What it was compiled for, such as `sm_80`.
    pub target: &'static str,
    /// What it was compiled to.
    pub code: Code,
}

/// What a compiled image holds.
#[derive(Debug)]
pub enum Code {
    /// Text that the driver compiles for the device.
    Ptx(&'static str),
}

/// Every image of this build.
pub static IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Why a device has no image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The device is too old.
    #[error(
        "the device has compute capability {}.{}; the kernels need 8.0 (Ampere, 2020) or newer: use --device soft",
        .capability.0, .capability.1
    )]
    TooOld {
        /// The device's compute capability.
        capability: (u32, u32),
    },
    /// The environment names an image that is not there.
    #[error("{VARIABLE}={asked}: there is no such image; expected one of {}", names(.known))]
    Unknown {
        /// What was asked for.
        asked: String,
        /// The targets there are.
        known: Vec<&'static str>,
    },
    /// The environment names an image that the device cannot run.
    #[error("{VARIABLE}={asked} does not run on a device of compute capability {}.{}", .capability.0, .capability.1)]
    OtherDevice {
        /// What was asked for.
        asked: String,
        /// The device's compute capability.
        capability: (u32, u32),
    },
}

fn names(known: &[&str]) -> String {
    known.join(", ")
}

impl Image {
    /// The compute capability that it was compiled for, and whether it runs on that one only.
    fn capability(&self) -> ((u32, u32), bool) {
        let number = self.target.trim_start_matches("sm_").trim_end_matches('a');
        let (major, minor) = number.split_at(number.len() - 1);
        let part = |digits: &str| digits.parse().unwrap_or_else(|_| panic!("the target {} has no number", self.target));
        ((part(major), part(minor)), self.target.ends_with('a'))
    }

    /// Whether a device of this compute capability runs it.
    pub fn runs_on(&self, device: (u32, u32)) -> bool {
        match self.capability() {
            (own, true) => device == own,
            (own, false) => device >= own,
        }
    }
}

/// The best image for a device of this compute capability, or the one that the environment names.
pub fn choose(capability: (u32, u32)) -> Result<&'static Image, ImageError> {
    let asked = env::var(VARIABLE).ok().filter(|asked| !asked.is_empty());
    choose_from(IMAGES, capability, asked.as_deref())
}

fn choose_from<'a>(images: &'a [Image], capability: (u32, u32), asked: Option<&str>) -> Result<&'a Image, ImageError> {
    let mut runnable = images.iter().filter(|image| image.runs_on(capability));
    let Some(asked) = asked else {
        return runnable.max_by_key(|image| image.capability()).ok_or(ImageError::TooOld { capability });
    };
    if !images.iter().any(|image| image.target == asked) {
        let known = images.iter().map(|image| image.target).collect();
        return Err(ImageError::Unknown { asked: asked.to_owned(), known });
    }
    let found = runnable.find(|image| image.target == asked);
    found.ok_or_else(|| ImageError::OtherDevice { asked: asked.to_owned(), capability })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[Image] =
        &[Image { target: "sm_80", code: Code::Ptx("") }, Image { target: "sm_90a", code: Code::Ptx("") }];

    fn chosen(capability: (u32, u32), asked: Option<&str>) -> Result<&'static str, ImageError> {
        choose_from(TWO, capability, asked).map(|image| image.target)
    }

    #[test]
    fn a_device_gets_the_newest_image_that_it_runs() {
        for (capability, target) in
            [((8, 0), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90a"), ((10, 0), "sm_80"), ((12, 1), "sm_80")]
        {
            assert_eq!(chosen(capability, None), Ok(target), "{capability:?}");
        }
        assert_eq!(chosen((7, 5), None), Err(ImageError::TooOld { capability: (7, 5) }));
    }

    #[test]
    fn a_named_image_is_taken_or_refused_with_the_reason() {
        assert_eq!(chosen((9, 0), Some("sm_80")), Ok("sm_80"));
        let text = |capability, asked| chosen(capability, Some(asked)).unwrap_err().to_string();
        assert_eq!(text((8, 0), "sm_90a"), "FERROWARP_IMAGE=sm_90a does not run on a device of compute capability 8.0");
        assert!(text((9, 0), "sm_70").ends_with("there is no such image; expected one of sm_80, sm_90a"));
    }

    #[test]
    fn the_build_has_an_image_for_every_device_from_ampere_on() {
        for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            assert!(IMAGES.iter().any(|image| image.runs_on(capability)), "{capability:?}");
        }
    }
}
