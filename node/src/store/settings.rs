//! `vpi.toml`: what this machine chose for one VPI.
//!
//! In: the choices made by `create` and `join`. Out: the same at each start. Nothing in it is agreed with other
//! members but the id and the own name; a person may edit it while no node runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::{fs, io};

use protocol::filter::Reach;
use protocol::identity::VpiId;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::StoreError;
use super::reach::{self, Exposure, Policy};
use super::replace::{beside, read, replace, replace_for, set_aside};
use super::state::{Owner, State};

/// Name of the file in the folder of its VPI.
pub(super) const FILE: &str = "vpi.toml";
/// `vpi.toml.copy`: what stands in for a file that is damaged.
const COPY: &str = "copy";

/// One VPI on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VpiSettings {
    /// What the VPI is called here: its own name, or `home-2` when another `home` came first.
    pub(crate) name: String,
    /// Which VPI it is, as 64 hexadecimal digits.
    #[serde(with = "hexadecimal")]
    pub(crate) id: VpiId,
    /// Its TUN device, such as `vpi-home`.
    pub(crate) device: String,
    /// First address of its /16, such as `127.80.0.0`.
    pub(crate) prefix: Ipv4Addr,
    /// Where the other members reach this device; within the /16.
    pub(crate) alias: Ipv4Addr,
    /// UDP port of the data socket.
    pub(crate) port: u16,
    /// Addresses under which this device can be reached from outside, as told by `--endpoint`.
    #[serde(default)]
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Beacons that the founding command or the token named.
    #[serde(default)]
    pub(crate) beacons: Vec<String>,
    /// What this device calls itself in the VPI.
    pub(crate) member: String,
    /// What members reach beyond the exposures.
    #[serde(default)]
    pub(crate) policy: Policy,
    /// Services on 127.0.0.1 that members reach.
    #[serde(default)]
    pub(crate) exposures: Vec<Exposure>,
}

impl VpiSettings {
    /// Writes the settings to `path` by rename, then the copy beside it.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the file is then as before.
    pub(crate) fn save(&self, path: &Path) -> Result<(), StoreError> {
        let text = toml::to_string(self).map_err(|error| settings_error(path, error.to_string()))?;
        replace(path, text.as_bytes())?;
        replace(&beside(path, COPY), text.as_bytes())
    }

    /// What members reach, as the engine's filter takes it.
    pub(crate) fn reach(&self) -> Reach {
        let exposures = self.exposures.iter().map(Exposure::to_filter).collect();
        Reach { policy: self.policy.to_filter(), exposures }
    }

    /// The settings of all VPIs below the state folder `dir`, by name; needs no lock. For a file that cannot be read those
    /// of its copy stand ([`VpiSettings::mistake`] tells).
    ///
    /// A VPI without the file was being created or joined when the node died; it is left out.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without a state folder; [`StoreError::Settings`] that names the key when one is unknown, missing or senseless
    /// and no copy is better; [`StoreError::Io`]. For the first file that fails.
    pub(crate) fn list(dir: &Path) -> Result<Vec<Self>, StoreError> {
        let folder = dir.join("vpi");
        let mut found = Vec::new();
        let entries = fs::read_dir(&folder).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(dir.to_owned()),
            _ => StoreError::io("list", &folder)(error),
        })?;
        for entry in entries {
            let path = entry.map_err(StoreError::io("list", &folder))?.path().join(FILE);
            found.extend(match Self::load(&path) {
                Ok(Some(settings)) => Some(settings),
                // Where the copy serves no better, the file itself is named.
                bad => Self::load(&beside(&path, COPY)).ok().flatten().map_or(bad, |copy| Ok(Some(copy)))?,
            });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// What a person got wrong in the file of this VPI below the state folder `dir`, in whose place its copy is in force.
    pub(crate) fn mistake(&self, dir: &Path) -> Option<StoreError> {
        Self::load(&State::vpi_files(dir, &self.id).settings).err()
    }

    /// Makes sure that the file at `path` may be written over: it has what these settings were made of.
    ///
    /// # Errors
    /// [`StoreError::Settings`] when a person has changed it meanwhile, or got it wrong; [`StoreError::Io`].
    pub(crate) fn check_untouched(&self, path: &Path) -> Result<(), StoreError> {
        match Self::load(path) {
            Ok(found) if found.as_ref().is_none_or(|found| found == self) => Ok(()),
            Ok(_) => {
                let reason = "it was changed since the node started: start the node again, so that it counts";
                Err(settings_error(path, reason.to_owned()))
            }
            Err(StoreError::Settings { path, reason }) => {
                Err(settings_error(&path, format!("{reason}; mend it, then start the node again")))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes every file below the state folder of `owner` and its copy equal: a file that a disk has spoilt is set
    /// aside, and the settings as they were at the last start, or as a command wrote them since, stand in its place. One
    /// that a person got wrong is theirs to mend, and stays; the copy is in force meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn mend(dir: &Path, owner: Owner) -> Result<(), StoreError> {
        let folder = dir.join("vpi");
        for entry in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
            let path = entry.map_err(StoreError::io("list", &folder))?.path().join(FILE);
            let copy = beside(&path, COPY);
            match (Self::load(&path), Self::load(&copy)) {
                (Ok(Some(settings)), Ok(Some(kept))) if settings == kept => {}
                (Ok(Some(_)), kept) => {
                    if kept.is_err() {
                        let aside = set_aside(&copy)?;
                        warn!(path = %copy.display(), aside = %aside.display(), "the copy of the settings was damaged: set aside");
                    } else if let Ok(Some(_)) = kept {
                        warn!(path = %path.display(), "the settings were changed since the last start, and count as they are");
                    }
                    replace_for(&copy, &read(&path)?.unwrap_or_default(), owner)?;
                }
                (bad, Ok(Some(_))) if is_spoilt(&path, &copy)? => {
                    let why = bad.err().map_or("it is gone".to_owned(), |error| error.to_string());
                    warn!(path = %path.display(), %why, "set aside: the settings of the last start are in force");
                    if path.exists() {
                        set_aside(&path)?;
                    }
                    replace_for(&path, &read(&copy)?.unwrap_or_default(), owner)?;
                }
                (Err(why), Ok(Some(_))) => {
                    warn!(%why, "left as it is: the settings of the last start are in force");
                }
                // Neither is whole, which is told by whoever lists them; or neither is there.
                (Ok(None) | Err(_), _) => {}
            }
        }
        Ok(())
    }

    fn load(path: &Path) -> Result<Option<Self>, StoreError> {
        let is_other = fs::metadata(path).is_ok_and(|found| !found.is_file());
        if is_other {
            return Err(settings_error(path, "it is no plain file".to_owned()));
        }
        read(path)?.map(|bytes| Self::decode(path, &bytes)).transpose()
    }

    fn decode(path: &Path, bytes: &[u8]) -> Result<Self, StoreError> {
        let settings: Self =
            toml::from_slice(bytes).map_err(|error| settings_error(path, at_line(&error, bytes)))?;
        let problem = settings.problem(path);
        problem.map_or(Ok(settings), |problem| Err(settings_error(path, problem.to_owned())))
    }

    fn problem(&self, path: &Path) -> Option<&'static str> {
        let [first, second, ..] = self.prefix.octets();
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        if self.prefix != Ipv4Addr::new(127, second, 0, 0) {
            Some("`prefix` is not the first address of a /16 of 127.0.0.0/8")
        } else if self.alias.octets()[..2] != [first, second] {
            Some("`alias` is outside `prefix`")
        } else if folder.and_then(VpiId::from_hex).is_some_and(|folder| folder != self.id) {
            Some("`id` is not the VPI that its folder is named after")
        } else {
            reach::problem(&self.exposures)
        }
    }
}

/// What TOML makes of the file, with the line where it stopped.
fn at_line(error: &toml::de::Error, bytes: &[u8]) -> String {
    let before = error.span().and_then(|span| bytes.get(..span.start)).unwrap_or_default();
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    format!("line {line}: {}", one_line(error.message()))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a disk and no person made the file at `path` what it is: it is gone, empty, no file, the beginning of its copy
/// and no more, or holds bytes that no text has.
fn is_spoilt(path: &Path, copy: &Path) -> Result<bool, StoreError> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Ok(true);
    }
    let (Some(bytes), copy) = (read(path)?, read(copy).ok().flatten().unwrap_or_default()) else {
        return Ok(true);
    };
    let is_text = |text: &str| text.chars().all(|letter| !letter.is_control() || letter.is_whitespace());
    Ok(copy.starts_with(&bytes) || !std::str::from_utf8(&bytes).is_ok_and(is_text))
}

fn settings_error(path: &Path, reason: String) -> StoreError {
    StoreError::Settings { path: path.to_owned(), reason }
}

/// A VPI ID as text.
mod hexadecimal {
    use protocol::identity::VpiId;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(id: &VpiId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VpiId, D::Error> {
        let text = String::deserialize(deserializer)?;
        VpiId::from_hex(&text).ok_or_else(|| D::Error::custom("`id` is not 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use protocol::identity::DeviceId;

    use super::*;
    use crate::loopback::Transport;
    use crate::store::state::State;

    fn settings(name: &str, id: u8) -> VpiSettings {
        VpiSettings {
            name: name.into(),
            id: VpiId([id; 32]),
            device: format!("vpi-{name}"),
            prefix: Ipv4Addr::new(127, 80, 0, 0),
            alias: Ipv4Addr::new(127, 80, 12, 7),
            port: 41_414,
            endpoints: vec!["192.0.2.1:41414".parse().unwrap(), "[2001:db8::1]:41414".parse().unwrap()],
            beacons: vec![
                "/ip4/192.0.2.9/tcp/41415/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN".into(),
            ],
            member: "nas".into(),
            policy: Policy::ExposedOnly,
            exposures: vec![exposure(22, Some(5)), exposure(80, None)],
        }
    }

    fn exposure(port: u16, to: Option<u8>) -> Exposure {
        let to = to.map(|byte| [DeviceId::from([byte; 32])].into());
        Exposure { proto: Transport::Tcp, port, to }
    }

    #[test]
    fn all_vpis_of_a_state_folder_are_listed_by_name() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&root.path().join("vpi"), None).unwrap();
        for settings in [settings("work", 1), settings("home", 2)] {
            settings.save(&state.vpi(&settings.id).unwrap().settings).unwrap();
        }
        state.vpi(&VpiId([3; 32])).unwrap();

        assert_eq!(VpiSettings::list(state.dir()).unwrap(), [settings("home", 2), settings("work", 1)]);
    }

    #[test]
    fn what_a_person_got_wrong_is_told_with_its_line_and_stays_while_the_copy_is_in_force() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&root.path().join("vpi"), None).unwrap();
        let path = state.vpi(&VpiId([1; 32])).unwrap().settings;
        let good = settings("home", 1);
        good.save(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(good.mistake(state.dir()).is_none());

        for (wrong, line) in [
            (text.replace("port = 41414", "port = 41414a"), "line 6"),
            (text.replace("device = \"vpi-home\"", "device = vpi-home"), "line 3"),
            (format!("{text}[[exposure]]\n"), "exposure"),
            (text.replace("alias = \"127.80.12.7\"", "alias = \"127.81.12.7\""), "`alias`"),
        ] {
            fs::write(&path, &wrong).unwrap();
            VpiSettings::mend(state.dir(), state.owner()).unwrap();
            assert_eq!(VpiSettings::list(state.dir()).unwrap(), std::slice::from_ref(&good));
            let mistake = good.mistake(state.dir()).unwrap().to_string();
            assert!(mistake.contains(line) && mistake.contains(FILE) && !mistake.contains('\n'), "{mistake}");
            let refused = good.check_untouched(&path).unwrap_err().to_string();
            assert!(refused.contains(line) && refused.contains("mend it"), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), wrong);
        }
    }

    #[test]
    fn what_a_person_edits_while_the_node_runs_is_not_written_over() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&root.path().join("vpi"), None).unwrap();
        let path = state.vpi(&VpiId([1; 32])).unwrap().settings;
        let running = settings("home", 1);
        running.check_untouched(&path).unwrap();
        running.save(&path).unwrap();
        running.check_untouched(&path).unwrap();

        VpiSettings { port: 5, ..running.clone() }.save(&path).unwrap();

        let refused = running.check_untouched(&path).unwrap_err().to_string();
        assert!(refused.contains("start the node again"), "{refused}");
    }

    #[test]
    fn an_unknown_or_missing_key_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&root.path().join("vpi"), None).unwrap();
        let path = state.vpi(&VpiId([1; 32])).unwrap().settings;
        let text = toml::to_string(&settings("home", 1)).unwrap();

        for (text, key) in
            [(format!("colour = 1\n{text}"), "colour"), (text.replace("port = 41414\n", ""), "port")]
        {
            fs::write(&path, text).unwrap();
            let error = VpiSettings::list(state.dir()).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(FILE) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn whatever_happens_to_the_file_the_copy_stands_in() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&root.path().join("vpi"), None).unwrap();
        let path = state.vpi(&VpiId([1; 32])).unwrap().settings;
        let good = settings("home", 1);
        good.save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut found = (0..whole.len()).map(|length| whole[..length].to_vec()).collect::<Vec<_>>();
        found.extend((0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x80;
            bytes
        }));

        for bytes in found {
            fs::write(&path, &bytes).unwrap();
            // A cut may leave settings that are whole; those that follow are then the person's own.
            let listed = VpiSettings::list(state.dir()).unwrap();
            assert_eq!(listed.len(), 1);
            VpiSettings::mend(state.dir(), state.owner()).unwrap();
            assert_eq!(VpiSettings::list(state.dir()).unwrap(), listed);
            good.save(&path).unwrap();
        }
        for damage in [|path: &Path| fs::create_dir(path), |_: &Path| Ok(())] {
            fs::remove_file(&path).unwrap();
            damage(&path).unwrap();
            VpiSettings::mend(state.dir(), state.owner()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn an_edit_by_a_person_is_what_stands_in_later() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&root.path().join("vpi"), None).unwrap();
        let path = state.vpi(&VpiId([1; 32])).unwrap().settings;
        settings("home", 1).save(&path).unwrap();
        let edited = VpiSettings { port: 5, ..settings("home", 1) };
        fs::write(&path, toml::to_string(&edited).unwrap()).unwrap();
        VpiSettings::mend(state.dir(), state.owner()).unwrap();

        fs::write(&path, "").unwrap();
        VpiSettings::mend(state.dir(), state.owner()).unwrap();

        assert_eq!(VpiSettings::list(state.dir()).unwrap(), [edited]);
        assert_eq!(fs::read(beside(&path, "damaged")).unwrap(), b"");
    }

    #[test]
    fn values_that_contradict_each_other_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&root.path().join("vpi"), None).unwrap();
        let path = state.vpi(&VpiId([1; 32])).unwrap().settings;
        let good = settings("home", 1);

        for (bad, key) in [
            (VpiSettings { alias: Ipv4Addr::new(127, 81, 1, 1), ..good.clone() }, "`alias`"),
            (VpiSettings { prefix: Ipv4Addr::new(127, 80, 1, 0), ..good.clone() }, "`prefix`"),
            (VpiSettings { prefix: Ipv4Addr::new(10, 80, 0, 0), ..good.clone() }, "`prefix`"),
            (VpiSettings { id: VpiId([2; 32]), ..good.clone() }, "`id`"),
            (VpiSettings { exposures: vec![exposure(22, None); 2], ..good.clone() }, "`exposures`"),
        ] {
            bad.save(&path).unwrap();
            let error = VpiSettings::list(state.dir()).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
