//! Reports volumes that cannot use what they inherited to the operator: once for each volume, until
//! the trouble has passed.

use super::Pool;
use super::state::State;
use crate::volume::image::trouble::Trouble;
use crate::volume::image::volume::Volume;
use crate::volume::request::VolumeId;

impl State {
    /// Updates the report about a volume.
    pub(in crate::volume) fn report_trouble(&mut self, id: VolumeId, trouble: Option<Trouble>) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        let before = volume.set_trouble(trouble);
        let is_news = before.is_none();
        let text = volume.trouble().map(Trouble::text);
        if let Some(before) = before {
            self.problems.withdraw(before.text());
            if text.is_none() {
                tracing::warn!(volume = volume.name(), "what the volume inherited can be read again");
            }
        }
        if let Some(problem) = text {
            if is_news {
                tracing::warn!(problem, "a volume does not have what it inherited");
            }
            self.problems.add(problem);
        }
    }

    /// Withdraws the report about a volume that was deleted.
    pub(in crate::volume) fn forget_trouble(&mut self, volume: &Volume) {
        if let Some(trouble) = volume.trouble() {
            self.problems.withdraw(trouble.text());
        }
    }
}

impl Pool {
    /// Whether a volume waits for an archive that did not answer, so that another try makes sense.
    pub fn waits_for_archive(&self) -> bool {
        self.state.borrow().volumes.iter().any(Volume::is_in_passing_trouble)
    }
}
