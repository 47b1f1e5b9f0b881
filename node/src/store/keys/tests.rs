//! The secrets across restarts, against damage, loose modes and overwriting.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

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
    let flipped = (0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let cut = (0..whole.len()).map(|length| whole[..length].to_vec());

    for bytes in flipped.chain(cut).chain([[&whole[..], b"\n"].concat()]) {
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
