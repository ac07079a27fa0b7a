//! The files with the contents of a session's clones: one file for one volume, and for a group a
//! folder with one file for each of its volumes, named as the volume.

use std::path::{Path, PathBuf};

use super::connect::failed;
use super::image::Image;
use crate::cli::client::Client;
use crate::options::CommandError;
use crate::volume::{SessionInfo, StepInfo};

/// The files.
pub(in crate::cli) struct Images {
    /// One for each member of the session, in its order.
    files: Vec<Image>,
    folder: Option<Folder>,
}

/// The folder of a group's files.
struct Folder {
    path: PathBuf,
    /// Whether it is removed at the end.
    is_temporary: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            // The system removes what is left in its folder of temporary files.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// What the file of a volume is called. A name of dots alone means a folder to the system.
fn file_name(volume: &str) -> String {
    if volume.chars().all(|letter| letter == '.') { format!("_{volume}") } else { volume.to_owned() }
}

impl Images {
    /// Makes the files of a session's clones: a file, or for a group a folder; without a path,
    /// temporary ones.
    ///
    /// # Errors
    /// They cannot be made.
    pub(in crate::cli) fn new(path: Option<PathBuf>, session: &SessionInfo) -> Result<Self, CommandError> {
        if session.group.is_none() {
            return Ok(Images { files: vec![Image::new(path)?], folder: None });
        }
        let is_temporary = path.is_none();
        let path = path.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("varve-{}.images", uuid::Uuid::new_v4().simple()))
        });
        crate::private::create_dir_all(&path).map_err(failed("make", &path))?;
        let folder = Folder { path, is_temporary };
        let mut files = Vec::with_capacity(session.members.len());
        for member in &session.members {
            files.push(Image::new(Some(folder.path.join(file_name(&member.volume))))?);
        }
        Ok(Images { files, folder: Some(folder) })
    }

    /// The file; of a group, the folder.
    pub(in crate::cli) fn path(&self) -> Option<&Path> {
        let file = self.files.first().map(Image::path);
        self.folder.as_ref().map(|folder| folder.path.as_path()).or(file)
    }

    /// Gives the files the contents that the clones have after a step.
    ///
    /// # Errors
    /// A clone cannot be read, or a file not written.
    pub(in crate::cli) fn follow(
        &mut self,
        client: &mut Client,
        step: &StepInfo,
    ) -> Result<(), CommandError> {
        for (file, member) in self.files.iter_mut().zip(&step.session.members) {
            file.follow(client, step, member)?;
        }
        Ok(())
    }
}
