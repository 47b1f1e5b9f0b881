//! The secrets across restarts, against damage, loose modes and overwriting.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use protocol::membership::admin;
use protocol::membership::object::Object;

use super::super::damage::damaged;
use super::super::replace::beside;
use super::*;

const VPI: VpiId = VpiId([3; 32]);

/// The name of the epoch `number` whose secret is made of `byte`.
fn epoch(number: u64, byte: u8) -> EpochName {
    EpochName { number, tag: EpochSecret::new(VPI, number, Secret([byte; 32])).tag() }
}

fn keys() -> (tempfile::TempDir, Keys) {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::new(dir.path().to_owned());
    (dir, keys)
}

#[test]
fn the_device_key_is_made_once() {
    let (_dir, keys) = keys();

    let first = keys.device().unwrap().public();

    assert_eq!(keys.device().unwrap().public(), first);
}

#[test]
fn the_device_key_is_looked_at_without_being_made() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::new(dir.path().join(FOLDER));
    std::fs::create_dir(dir.path().join(FOLDER)).unwrap();
    assert_eq!(Keys::peek_device(dir.path()).unwrap(), None);

    let made = keys.device().unwrap().public();

    assert_eq!(Keys::peek_device(dir.path()).unwrap(), Some(made));
    assert_eq!(Keys::peek_device(&dir.path().join("nowhere")).unwrap(), None);
}

#[test]
fn a_recovery_key_is_kept_until_it_was_seen() {
    let (_dir, keys) = keys();
    assert!(keys.recovery(&VPI).unwrap().is_none());

    keys.put_recovery(&VPI, &[9; 32]).unwrap();

    assert_eq!(keys.recovery(&VPI).unwrap().unwrap().0, [9; 32]);
    assert!(matches!(keys.put_recovery(&VPI, &[8; 32]), Err(StoreError::Exists(_))));
    keys.remove_recovery(&VPI).unwrap();
    keys.remove_recovery(&VPI).unwrap();
    assert!(keys.recovery(&VPI).unwrap().is_none());
}

#[test]
fn secrets_are_found_again_in_order() {
    let (_dir, keys) = keys();
    for counter in [10, 2, 0] {
        keys.put_static(&VPI, counter, &StaticSecret::from_bytes([counter as u8; 32])).unwrap();
    }
    keys.put_epoch(&VPI, epoch(4, 5), &Secret([5; 32])).unwrap();
    keys.put_epoch(&VPI, epoch(0, 6), &Secret([6; 32])).unwrap();
    keys.put_root(&VPI, &SigningSecret::from_seed(&[7; 32])).unwrap();

    let statics = keys.statics(&VPI).unwrap();
    let epochs = keys.epochs(&VPI).unwrap();

    assert_eq!(
        statics.iter().map(|(c, key)| (*c, key.to_bytes()[0])).collect::<Vec<_>>(),
        [(0, 0), (2, 2), (10, 10)]
    );
    assert_eq!(
        epochs.iter().map(|(name, secret)| (name.number, secret.0[0])).collect::<Vec<_>>(),
        [(0, 6), (4, 5)]
    );
}

#[test]
fn files_have_mode_0600_and_folders_0700() {
    let (_dir, keys) = keys();
    keys.device().unwrap();
    keys.put_epoch(&VPI, epoch(4, 5), &Secret([5; 32])).unwrap();

    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;

    assert_eq!(mode(keys.dir.join("device")), 0o600);
    assert_eq!(mode(keys.folder(&VPI)), 0o700);
    assert_eq!(mode(keys.folder(&VPI).join(epoch_file(epoch(4, 5)))), 0o600);
    assert_eq!(fs::read_dir(keys.folder(&VPI)).unwrap().count(), 2, "it and its copy");
}

#[test]
fn a_file_others_may_read_is_refused() {
    let (_dir, keys) = keys();
    keys.device().unwrap();
    fs::set_permissions(keys.dir.join("device"), Permissions::from_mode(0o640)).unwrap();

    let error = keys.device().unwrap_err().to_string();

    assert!(error.contains("chmod 600 "), "{error}");
}

#[test]
fn every_flipped_bit_and_truncation_of_a_key_file_is_noticed_and_named() {
    let (_dir, keys) = keys();
    keys.device().unwrap();
    let path = keys.dir.join("device");
    let whole = fs::read(&path).unwrap();

    for bytes in damaged(&whole).chain([[&whole[..], b"\n"].concat()]) {
        fs::write(&path, &bytes).unwrap();
        let error = keys.device().unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { path: named, .. } if *named == path), "{error}");
    }
}

#[test]
fn a_key_under_another_keys_name_is_noticed() {
    let (_dir, keys) = keys();
    keys.put_static(&VPI, 1, &StaticSecret::from_bytes([1; 32])).unwrap();
    fs::rename(keys.folder(&VPI).join("static-1"), keys.folder(&VPI).join("static-2")).unwrap();

    assert!(matches!(keys.statics(&VPI), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_kept_key_is_never_overwritten_by_another() {
    let (_dir, keys) = keys();
    keys.put_epoch(&VPI, epoch(4, 5), &Secret([5; 32])).unwrap();

    keys.put_epoch(&VPI, epoch(4, 5), &Secret([5; 32])).unwrap();
    let error = keys.put_epoch(&VPI, epoch(4, 5), &Secret([6; 32])).unwrap_err();

    assert!(matches!(error, StoreError::Exists(_)), "{error}");
    assert_eq!(keys.epochs(&VPI).unwrap()[0].1, Secret([5; 32]));
}

#[test]
fn a_damaged_epoch_secret_is_set_aside_unless_it_is_the_last() {
    let (_dir, keys) = keys();
    let other = epoch(5, 6);
    keys.put_epoch(&VPI, epoch(4, 5), &Secret([5; 32])).unwrap();
    keys.put_epoch(&VPI, other, &Secret([6; 32])).unwrap();
    let files = [epoch(4, 5), other].map(|name| keys.folder(&VPI).join(epoch_file(name)));

    fs::write(&files[0], "").unwrap();
    assert_eq!(keys.epochs(&VPI).unwrap(), [(other, Secret([6; 32]))]);
    assert!(!files[0].exists());
    keys.put_epoch(&VPI, epoch(4, 5), &Secret([5; 32])).unwrap();
    assert_eq!(keys.epochs(&VPI).unwrap().len(), 2);

    for file in &files {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    }
    assert!(matches!(keys.epochs(&VPI), Err(StoreError::Damaged { .. })));
    assert!(files.iter().all(|file| file.is_dir()), "what cannot be fetched again stays where it is");
}

#[test]
fn a_device_key_that_is_gone_is_not_made_anew_while_vpis_know_it() {
    let (_dir, keys) = keys();
    keys.device().unwrap();
    keys.put_epoch(&VPI, epoch(4, 5), &Secret([5; 32])).unwrap();
    fs::remove_file(keys.dir.join("device")).unwrap();

    let error = keys.device().unwrap_err();

    assert!(matches!(&error, StoreError::Lost(path) if path.ends_with("device")), "{error}");
    assert!(!keys.dir.join("device").exists());
}

/// What the objects say of a device whose keys are made of these bytes.
fn word_of(device: u8, static_key: u8) -> Object {
    let device = SigningSecret::from_seed(&[device; 32]);
    let key = StaticSecret::from_bytes([static_key; 32]).public();
    admin::rekey(&VPI, &device, 0, key, 0).unwrap()
}

/// A device made of `[1; 32]`, whose static key in the VPI is made of `[2; 32]`.
fn member() -> (tempfile::TempDir, Keys, [PathBuf; 2]) {
    let (dir, keys) = keys();
    let paths = [keys.dir.join(DEVICE), keys.make_vpi_folder(&VPI).unwrap().join("static-0")];
    for (path, byte) in paths.iter().zip([1, 2]) {
        store(path, &[byte; 32]).unwrap();
    }
    (dir, keys, paths)
}

#[test]
fn whatever_happens_to_a_key_or_its_copy_the_other_stands_in() {
    let (_dir, keys, paths) = member();
    keys.put_epoch(&VPI, epoch(4, 5), &Secret([5; 32])).unwrap();
    let epoch_path = keys.folder(&VPI).join(epoch_file(epoch(4, 5)));
    for path in paths.iter().chain([&epoch_path]) {
        let whole = fs::read(path).unwrap();
        for damaged in [path.clone(), beside(path, "copy")] {
            let flips = (0..whole.len()).map(|at| {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                bytes
            });
            for bytes in flips.chain([Vec::new(), whole[..40].to_vec()]) {
                fs::write(&damaged, &bytes).unwrap();
                keys.mend().unwrap();
                assert_eq!(fs::read(path).unwrap(), whole);
                assert_eq!(fs::read(beside(path, "copy")).unwrap(), whole);
            }
            fs::remove_file(&damaged).unwrap();
            keys.mend().unwrap();
            fs::remove_file(&damaged).unwrap();
            fs::create_dir(&damaged).unwrap();
            keys.mend().unwrap();
            assert_eq!(fs::read(&damaged).unwrap(), whole);
        }
        assert!(beside(path, "damaged").exists(), "what was there is kept");
    }
}

#[test]
fn a_key_that_came_from_its_copy_is_as_old_as_it_was() {
    let (_dir, keys, [_, path]) = member();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(1_000_000);
    let copy = beside(&path, "copy");
    for file in [&path, &copy] {
        File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    for damaged in [&path, &copy] {
        fs::write(damaged, "").unwrap();
        keys.mend().unwrap();
        assert!(keys.static_age(&VPI, 0).unwrap() >= Duration::from_secs(1_000_000));
    }
}

#[test]
fn a_key_of_another_device_gives_way_to_the_copy_of_ones_own() {
    for at in 0..2 {
        let (_dir, keys, paths) = member();
        let (objects, path) = ([word_of(3, 4), word_of(1, 2)], &paths[at]);
        let whole = fs::read(path).unwrap();
        fs::write(path, &*encode(path, &[at as u8 + 3; 32])).unwrap();

        keys.mend().unwrap();
        keys.settle(&VPI, &objects).unwrap();

        assert_eq!(fs::read(path).unwrap(), whole);
        // A foreign copy gives way, too.
        fs::write(beside(path, "copy"), &*encode(path, &[at as u8 + 3; 32])).unwrap();
        keys.settle(&VPI, &objects).unwrap();
        assert_eq!(fs::read(beside(path, "copy")).unwrap(), whole);
    }
}

#[test]
fn a_key_of_another_device_without_a_copy_of_ones_own_is_named_and_stays() {
    for at in 0..2 {
        let (_dir, keys, paths) = member();
        let path = &paths[at];
        let foreign = encode(path, &[at as u8 + 3; 32]);
        for file in [path.clone(), beside(path, "copy")] {
            fs::write(file, &*foreign).unwrap();
        }

        let error = keys.settle(&VPI, &[word_of(1, 2)]).unwrap_err();

        assert!(matches!(&error, StoreError::Foreign(named) if named == path), "{error}");
        assert_eq!(fs::read(path).unwrap(), *foreign);
    }
}

#[test]
fn keys_of_which_no_object_speaks_stay() {
    let (_dir, keys, paths) = member();
    keys.put_static(&VPI, 1, &StaticSecret::from_bytes([9; 32])).unwrap();

    keys.settle(&VPI, &[]).unwrap();
    keys.settle(&VPI, &[word_of(1, 2)]).unwrap();

    assert_eq!(keys.statics(&VPI).unwrap().len(), 2, "one whose Rekey was not made yet");
    assert!(paths.iter().all(|path| path.exists()));
}

#[test]
fn a_secret_that_is_forgotten_does_not_come_back_from_its_copy() {
    let (_dir, keys, _) = member();
    keys.put_recovery(&VPI, &[9; 32]).unwrap();

    keys.remove_recovery(&VPI).unwrap();
    keys.remove_static(&VPI, 0).unwrap();
    keys.mend().unwrap();

    assert!(keys.recovery(&VPI).unwrap().is_none() && keys.statics(&VPI).unwrap().is_empty());
}

#[test]
fn an_epoch_secret_under_another_ones_name_is_set_aside() {
    let (_dir, keys) = keys();
    keys.put_epoch(&VPI, epoch(4, 5), &Secret([5; 32])).unwrap();
    let path = keys.make_vpi_folder(&VPI).unwrap().join(epoch_file(epoch(4, 6)));
    store(&path, &[7; 32]).unwrap();

    assert_eq!(keys.epochs(&VPI).unwrap(), [(epoch(4, 5), Secret([5; 32]))]);
    assert!(!path.exists());
}
