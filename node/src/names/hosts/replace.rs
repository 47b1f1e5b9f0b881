//! Replaces a file that is not ours alone: by rename with mode, owner and label kept, or in place where it is a mount.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, XattrFlags, fgetxattr, flock, fsetxattr};
use rustix::io::Errno;

/// The mode of a file that this makes.
const MODE: u32 = 0o644;
/// The extended attribute that holds an SELinux label.
const LABEL: &str = "security.selinux";
/// More than any label has.
const MAX_LABEL_BYTES: usize = 4_096;

/// Where the content that is to take its place is written.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".vpi-new");
    PathBuf::from(name)
}

/// Opens the file that is to take the other's place, when no other process has it.
pub(super) fn lock(next: &Path) -> io::Result<File> {
    loop {
        // Whatever else has this name, a link above all, is not written through.
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(next);
        let file = open?;
        flock(&file, FlockOperation::LockExclusive)?;
        // Whoever held it before has renamed or removed it.
        let is_still_there = fs::symlink_metadata(next).is_ok_and(|there| {
            file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino()))
        });
        if is_still_there {
            return Ok(file);
        }
    }
}

/// Gives `file` this content, with mode, owner and label of `former`, durable when it returns.
pub(super) fn fill(file: &File, bytes: &[u8], former: Option<&File>) -> io::Result<()> {
    file.set_len(0)?;
    let mut out = file;
    out.write_all(bytes)?;
    let mode = match former {
        Some(former) => {
            let known = former.metadata()?;
            std::os::unix::fs::fchown(file, Some(known.uid()), Some(known.gid()))?;
            copy_label(former, file)?;
            known.mode() & 0o7777
        }
        None => MODE,
    };
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    file.sync_all()
}

/// Gives `to` the SELinux label of `from`, if it has one.
fn copy_label(from: &File, to: &File) -> io::Result<()> {
    let mut label = [0; MAX_LABEL_BYTES];
    match fgetxattr(from, LABEL, &mut label[..]) {
        Ok(bytes) => Ok(fsetxattr(to, LABEL, label.get(..bytes).unwrap_or_default(), XattrFlags::empty())?),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Says whether a file could not be replaced because it is a mount.
pub(super) fn is_mounted(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::BUSY | Errno::XDEV))
}

/// Writes over the content; all of the next one stands in the file beside it meanwhile.
pub(super) fn in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}
