//! The index after restarts, beyond its bounds, and on damaged files.

use std::time::Duration;
use std::{fs, thread};

use super::super::super::replace::beside;
use super::*;

const VPI: VpiId = VpiId([1; 32]);
const OTHER: VpiId = VpiId([2; 32]);

#[test]
fn paths_are_found_again_most_recent_first_and_by_vpi() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let paths = [last(1, 1, 10), last(1, 2, 30), last(2, 3, 20)];
    let (mut index, _) = Database::open(&path).unwrap();
    remember(&mut index, &VPI, &paths).unwrap();
    remember(&mut index, &OTHER, &[last(9, 9, 9)]).unwrap();
    drop(index);

    let (mut index, aside) = Database::open(&path).unwrap();

    assert_eq!(aside, None);
    assert_eq!(last_good_paths(&mut index, &VPI).unwrap(), [paths[1], paths[2], paths[0]]);
    assert_eq!(last_good_paths(&mut index, &OTHER).unwrap(), [last(9, 9, 9)]);
}

#[test]
fn what_was_remembered_survives_a_process_that_never_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("index"), dir.path().join("copy"));
    let (mut index, _) = Database::open(&path).unwrap();
    for round in 0..20 {
        remember(&mut index, &VPI, &[last(1, 1, round)]).unwrap();
    }

    // The files as kill -9 would leave them: the index is still open.
    copy_folder(&path, &copy);

    let (mut survivor, aside) = Database::open(&copy).unwrap();
    assert_eq!(aside, None);
    assert_eq!(last_good_paths(&mut survivor, &VPI).unwrap(), [last(1, 1, 19)]);
}

#[test]
fn an_index_that_is_still_held_is_waited_for_and_not_taken_for_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let (mut first, _) = Database::open(&path).unwrap();
    remember(&mut first, &VPI, &[last(1, 1, 1)]).unwrap();

    let closing = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        drop(first);
    });
    let (mut second, aside) = Database::open(&path).unwrap();

    closing.join().unwrap();
    assert_eq!(aside, None);
    assert_eq!(last_good_paths(&mut second, &VPI).unwrap(), [last(1, 1, 1)]);
}

#[test]
fn of_many_remotes_the_most_recent_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut index, _) = Database::open(&dir.path().join("index")).unwrap();
    let paths: Vec<_> = (0..10).map(|port| last(1, port, u64::from(port))).collect();
    remember(&mut index, &VPI, &paths).unwrap();
    remember(&mut index, &VPI, &[last(1, 7, 50)]).unwrap();

    let ports: Vec<_> =
        last_good_paths(&mut index, &VPI).unwrap().iter().map(|path| path.remote.port()).collect();

    assert_eq!(ports, [7, 9, 8, 6]);
}

#[test]
fn of_too_many_devices_the_longest_unseen_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut index, _) = Database::open(&dir.path().join("index")).unwrap();
    let device = |number: u16| {
        let mut device = [0; 32];
        device[..2].copy_from_slice(&number.to_be_bytes());
        LastPath { device: DeviceId::from(device), ..last(0, 1, 1_000 + u64::from(number)) }
    };
    let many: Vec<_> = (0..DEVICES_MAX as u16).map(device).collect();
    remember(&mut index, &VPI, &many).unwrap();
    remember(&mut index, &OTHER, &many[..1]).unwrap();

    remember(&mut index, &VPI, &[device(u16::MAX)]).unwrap();

    let kept = last_good_paths(&mut index, &VPI).unwrap();
    assert_eq!(kept.len(), DEVICES_MAX);
    assert_eq!(kept.first(), Some(&device(u16::MAX)));
    assert_eq!(kept.last(), Some(&device(1)));
    assert_eq!(last_good_paths(&mut index, &OTHER).unwrap().len(), 1);
}

#[test]
fn damaged_files_never_panic_and_never_yield_a_path_that_was_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("index"));
    let remembered = fill(&whole);
    let (mut rebuilt, mut emptied) = (0, 0);

    for seed in 0..seeds() {
        let _ = fs::remove_dir_all(&broken);
        copy_folder(&whole, &broken);
        damage(&broken, seed);

        let (mut index, aside) = Database::open(&broken).unwrap();
        rebuilt += usize::from(aside.is_some());
        let found = match last_good_paths(&mut index, &VPI) {
            Err(DatabaseError::SetAside(_)) => Vec::new(),
            found => found.unwrap(),
        };
        assert!(found.iter().all(|path| remembered.contains(path)), "seed {seed}");
        emptied += usize::from(found.is_empty());
        match remember(&mut index, &VPI, &[last(200, 200, 200)]) {
            Ok(()) | Err(DatabaseError::SetAside(_)) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
        drop(index);
        Database::open(&broken).unwrap();
    }
    assert!(rebuilt > 0 && rebuilt <= emptied, "{rebuilt} rebuilt, {emptied} empty");
}

#[test]
fn only_two_damaged_indexes_are_kept_and_the_latest_is_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");

    for round in 0..4 {
        drop(Database::open(&path).unwrap());
        fs::write(path.join("conf"), format!("round {round}, no configuration")).unwrap();
        let (_, aside) = Database::open(&path).unwrap();
        assert_eq!(aside, Some(beside(&path, "damaged-1")));
    }

    let read = |age| fs::read_to_string(dir.path().join(format!("index.damaged-{age}/conf"))).unwrap();
    assert!(read(1).starts_with("round 3") && read(2).starts_with("round 2"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn a_panic_in_a_call_sets_the_index_aside_and_leaves_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut index, _) = Database::open(&dir.path().join("index")).unwrap();
    remember(&mut index, &VPI, &[last(1, 1, 1)]).unwrap();

    let result = index.call::<()>(|_| panic!("as sled does on a damaged page"));

    assert!(matches!(result, Err(DatabaseError::SetAside(_))));
    assert!(last_good_paths(&mut index, &VPI).unwrap().is_empty());
    remember(&mut index, &VPI, &[last(2, 2, 2)]).unwrap();
    assert_eq!(last_good_paths(&mut index, &VPI).unwrap(), [last(2, 2, 2)]);
}

#[test]
fn of_presences_the_greatest_counter_is_kept_and_a_vpi_that_was_left_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut index, _) = Database::open(&dir.path().join("index")).unwrap();
    let presence = |device, counter| LastPresence {
        device: DeviceId::from([device; 32]),
        counter,
        last_at: counter,
        object: vec![device; 300].into(),
    };
    let remember = |vpi, presence| Change::Remember(Fact::Presence(vpi, presence));
    index.write(&[remember(VPI, presence(1, 5)), remember(VPI, presence(1, 4))]).unwrap();
    index.write(&[remember(VPI, presence(2, 1)), remember(VPI, presence(1, 7))]).unwrap();
    index.write(&[remember(OTHER, presence(1, 9))]).unwrap();

    let known = |vpi, presence| Fact::Presence(vpi, presence);
    assert_eq!(index.recall(&VPI).unwrap(), [known(VPI, presence(1, 7)), known(VPI, presence(2, 1))]);

    index.write(&[Change::Forget(VPI), remember(VPI, presence(3, 1))]).unwrap();
    assert_eq!(index.recall(&VPI).unwrap(), [known(VPI, presence(3, 1))]);
    assert_eq!(index.recall(&OTHER).unwrap(), [known(OTHER, presence(1, 9))]);
}

#[test]
fn of_too_many_presences_the_longest_unseen_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut index, _) = Database::open(&dir.path().join("index")).unwrap();
    let presence = |number: u16| {
        let mut device = [0; 32];
        device[..2].copy_from_slice(&number.to_be_bytes());
        let (device, last_at) = (DeviceId::from(device), 10_000 - u64::from(number));
        Fact::Presence(VPI, LastPresence { device, counter: 1, last_at, object: b"x"[..].into() })
    };
    let many: Vec<_> = (0..=DEVICES_MAX as u16).rev().map(presence).map(Change::Remember).collect();

    index.write(&many).unwrap();

    let kept = index.recall(&VPI).unwrap();
    assert_eq!(kept.len(), DEVICES_MAX);
    assert!(kept.contains(&presence(0)) && !kept.contains(&presence(DEVICES_MAX as u16)));
}

fn last_good_paths(index: &mut Database, vpi: &VpiId) -> Result<Vec<LastPath>, DatabaseError> {
    let facts = index.recall(vpi)?;
    let paths = facts.iter().filter_map(|fact| match fact {
        Fact::Path(of, path) => (of == vpi).then_some(*path),
        Fact::Presence(..) => None,
    });
    Ok(paths.collect())
}

fn remember(index: &mut Database, vpi: &VpiId, paths: &[LastPath]) -> Result<(), DatabaseError> {
    index.write(&paths.iter().map(|path| Change::Remember(Fact::Path(*vpi, *path))).collect::<Vec<_>>())
}

fn last(device: u8, port: u16, last_at: u64) -> LastPath {
    LastPath { device: DeviceId::from([device; 32]), remote: ([192, 0, 2, device], port).into(), last_at }
}

/// How many kinds of damage to try; more with `VPI_SEEDS`.
fn seeds() -> u64 {
    std::env::var("VPI_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

fn fill(path: &Path) -> Vec<LastPath> {
    let mut remembered = Vec::new();
    for batch in 0..8_u8 {
        let paths: Vec<_> = (0..8).map(|n| last(batch * 8 + n, u16::from(n), u64::from(batch))).collect();
        let (mut index, _) = Database::open(path).unwrap();
        remember(&mut index, &VPI, &paths).unwrap();
        remembered.extend(paths);
    }
    remembered
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Flips a bit (three times out of four), or zeroes a sector, or cuts a file, where `seed` says.
fn damage(folder: &Path, seed: u64) {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let file = &files[draw(files.len())];
    let mut bytes = fs::read(file).unwrap();
    // Most of sled's files are holes: damage goes where something stands.
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let at = used[draw(used.len())];
    match seed % 8 {
        0 => bytes.truncate(at),
        1 => bytes.iter_mut().skip(at & !511).take(512).for_each(|byte| *byte = 0),
        _ => bytes[at] ^= 1 << draw(8),
    }
    fs::write(file, bytes).unwrap();
}
