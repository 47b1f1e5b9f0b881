//! What was set aside: damaged files that stand as `NAME.damaged` beside what took their place, until a person deletes them.
//!
//! In: the state folder. Out: each such file, with one sentence for people: what it was, what stands in for it, what to do.
//! Looks only, and takes no lock.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::identity::VpiId;

use super::keys;

/// *Chosen*: a person reads these; more in one folder are nobody's list.
const LISTED_MAX: usize = 32;

/// One thing that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aside {
    /// Where it stands.
    path: PathBuf,
    /// Name of the file that it was.
    name: String,
}

/// What of the whole node was set aside below the state folder `dir`, by path. A folder that may not be looked into holds
/// nothing.
pub(crate) fn of_node(dir: &Path) -> Vec<Aside> {
    [dir.to_owned(), dir.join(keys::FOLDER)].iter().flat_map(|folder| within(folder)).collect()
}

/// What of one VPI was set aside, as [`of_node`] does for what all have in common.
pub(crate) fn of_vpi(dir: &Path, vpi: &VpiId) -> Vec<Aside> {
    let vpi = vpi.to_string();
    [dir.join("vpi").join(&vpi), dir.join(keys::FOLDER).join(&vpi)]
        .iter()
        .flat_map(|folder| within(folder))
        .collect()
}

impl Aside {
    /// What was damaged, and where it stands.
    pub(crate) fn what(&self) -> String {
        let what = match self.name.as_str() {
            "objects.log" => "records of members, invites and removals could not be read",
            "aliases" => "lines of the list of aliases could not be read",
            "floor" => "the note of how far this VPI had come could not be read",
            "vpi.toml" => "the settings could not be read",
            "index" => "the index of where members were could not be read",
            "journal" => "the journal of what was put on this machine could not be read",
            name if name.ends_with(".copy") => "the spare copy of a file was not what it should be",
            _ => "a key was damaged, or another device's",
        };
        format!("{what}: set aside as {}", self.path.display())
    }

    /// What stands in for it, and what to do.
    pub(crate) fn advice(&self) -> String {
        let (instead, then) = match self.name.as_str() {
            "objects.log" => (
                "this disk's copy and other members give back what they have",
                "see that the members in `vpi status` are all, then delete it",
            ),
            "aliases" => (
                "this disk's copy has them, or members get an alias when they are met again",
                "see that the aliases in `vpi status` are the usual ones, then delete it",
            ),
            "floor" => (
                "it is written anew, and as an admin this device signs nothing before it has met a member",
                "let it meet one, then delete it",
            ),
            "vpi.toml" => {
                ("those of the last start are in force", "do again what you changed since, then delete it")
            }
            "index" => ("it begins empty, and members are found as at first", "delete it"),
            "journal" => {
                ("it begins empty", "run `vpi doctor` to see whether anything is left over, then delete it")
            }
            name if name.ends_with(".copy") => ("it was written again", "delete it"),
            _ => (
                "its copy, or members, gave the right one back",
                "back up the folder of keys, then delete it; it may still hold a secret",
            ),
        };
        format!("{instead}; {then}")
    }
}

fn within(folder: &Path) -> Vec<Aside> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let aside = |entry: fs::DirEntry| {
        let path = entry.path();
        let (name, rest) = path.file_name()?.to_str()?.split_once(".damaged")?;
        (rest.is_empty() || rest.starts_with('-'))
            .then(|| Aside { name: name.to_owned(), path: path.clone() })
    };
    let mut found: Vec<Aside> = entries.filter_map(Result::ok).filter_map(aside).take(LISTED_MAX).collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_aside_is_told_with_its_place_and_what_to_do_until_it_is_deleted() {
        let root = tempfile::tempdir().unwrap();
        let (dir, vpi) = (root.path(), VpiId([1; 32]));
        let (keys, files) = (dir.join("keys").join(vpi.to_string()), dir.join("vpi").join(vpi.to_string()));
        for folder in [&keys, &files, &dir.join("index.damaged-1")] {
            fs::create_dir_all(folder).unwrap();
        }
        for (folder, name) in [
            (dir.join("keys"), "device.damaged"),
            (keys.clone(), "static-0.damaged-2"),
            (files.clone(), "objects.log.damaged"),
            (files.clone(), "vpi.toml.copy"),
            (files.clone(), "aliases.damagedly"),
        ] {
            fs::write(folder.join(name), "").unwrap();
        }

        let told = |found: Vec<Aside>| -> Vec<String> {
            found.iter().map(|aside| format!("{}; {}", aside.what(), aside.advice())).collect()
        };
        let (node, of_vpi) = (told(of_node(dir)), told(super::of_vpi(dir, &vpi)));

        assert!(matches!(node.as_slice(), [index, device]
            if index.contains("index.damaged-1") && device.contains("keys/device.damaged")));
        assert!(matches!(of_vpi.as_slice(), [log, key]
            if log.contains("objects.log.damaged; ") && log.contains("other members") && key.contains("static-0.damaged-2")));
        fs::remove_file(files.join("objects.log.damaged")).unwrap();
        assert_eq!(super::of_vpi(dir, &vpi).len(), 1);
        assert!(super::of_vpi(dir, &VpiId([2; 32])).is_empty());
    }
}
