//! The pins of a directory.

use std::fs;
use std::io;
use std::path::Path;

use super::{FsStore, layout};
use crate::store::pins::{Pin, PinError, Pins};

impl FsStore {
    /// Returns the pins at this moment.
    pub fn pinned(&self) -> Pins {
        self.pins.lock().clone()
    }

    /// Adds a pin. Returns whether the pin is new. The pin survives a kill.
    ///
    /// # Errors
    ///
    /// There are too many pins, or the file of the pins cannot be written. The pins are unchanged.
    pub fn pin(&self, pin: Pin) -> Result<bool, PinError> {
        self.change_pins(|pins| pins.add(pin))
    }

    /// Removes a pin. Returns whether the pin existed.
    ///
    /// # Errors
    ///
    /// The file of the pins cannot be written. The pins are unchanged.
    pub fn unpin(&self, pin: &Pin) -> Result<bool, PinError> {
        self.change_pins(|pins| Ok(pins.remove(pin)))
    }

    /// Adds pins, with one write.
    ///
    /// # Errors
    ///
    /// As for [`FsStore::pin`].
    pub fn add_pins<'a>(&self, added: impl Iterator<Item = &'a Pin>) -> Result<bool, PinError> {
        self.change_pins(|pins| {
            let mut added = added.cloned();
            added.try_fold(false, |is_changed, pin| Ok(pins.add(pin)? || is_changed))
        })
    }

    fn change_pins(
        &self,
        change: impl FnOnce(&mut Pins) -> Result<bool, PinError>,
    ) -> Result<bool, PinError> {
        let mut pins = self.pins.lock();
        let mut changed = pins.clone();
        let is_changed = change(&mut changed)?;
        if is_changed {
            let written = self.replace(Path::new(layout::PINS), &changed.to_json());
            written.map_err(|error| PinError::NotWritten(error.to_string()))?;
            *pins = changed;
        }
        Ok(is_changed)
    }
}

/// Reads the pins of the store in `root`. Moves an unreadable file aside, so that the next change
/// does not overwrite it.
pub(super) fn read(root: &Path) -> Pins {
    let path = root.join(layout::PINS);
    let json = match fs::read(&path) {
        Ok(json) => json,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "pins unreadable; no image is pinned");
            }
            return Pins::default();
        }
    };
    Pins::parse(&json).unwrap_or_else(|| {
        let aside = path.with_extension("damaged");
        let _ = fs::rename(&path, &aside);
        tracing::warn!(path = %path.display(), moved_to = %aside.display(), "pins unreadable; no image is pinned");
        Pins::default()
    })
}
