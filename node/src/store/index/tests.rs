//! Keepers that fail in every way, and what waits for one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::keeper::{KeeperError, serve};
use super::message::{Change, LINE_MAX, line};
use super::*;

const VPI: VpiId = VpiId([1; 32]);

#[test]
fn a_keeper_gives_back_what_another_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("index");
    let facts = [Fact::Path(VPI, last(1)), Fact::Presence(VPI, presence(1, 4))];

    let told = requests(&facts);
    assert_eq!(served(&folder, &told).unwrap(), [Answer::Done]);

    let found = served(&folder, &line(&Request::Recall(VPI)).unwrap()).unwrap();
    let [first, second] = facts;
    assert_eq!(found, [Answer::Fact(first), Answer::Fact(second), Answer::Done]);
}

#[test]
fn a_request_that_was_cut_off_leaves_those_before_it_and_one_that_is_none_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("index");
    let told = requests(&[Fact::Path(VPI, last(1)), Fact::Path(VPI, last(2))]);

    assert_eq!(served(&folder, &told[..told.len() - 1]).unwrap(), [Answer::Done]);
    let recall = line(&Request::Recall(VPI)).unwrap();
    let first = [Answer::Fact(Fact::Path(VPI, last(1))), Answer::Done];
    assert_eq!(served(&folder, &recall).unwrap(), first);

    for bad in [&b"{}\n"[..], b"\xff\n", &vec![b'['; LINE_MAX + 1], &recall.repeat(REQUESTS_MAX + 1)] {
        assert!(matches!(served(&folder, bad), Err(KeeperError::Request(_))));
    }
    assert_eq!(served(&folder, &recall).unwrap(), first);
}

#[test]
fn a_damaged_index_is_told_by_the_keeper_and_takes_the_batch_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("index");
    served(&folder, &requests(&[Fact::Path(VPI, last(1))])).unwrap();
    fs::write(folder.join("conf"), "no configuration").unwrap();

    let mut told = requests(&[Fact::Path(VPI, last(2))]);
    told.extend(line(&Request::Recall(VPI)).unwrap());
    let answers = served(&folder, &told).unwrap();

    let aside = Answer::SetAside(dir.path().join("index.damaged-1").display().to_string());
    assert_eq!(answers, [aside, Answer::Fact(Fact::Path(VPI, last(2))), Answer::Done]);
}

#[test]
fn an_index_in_a_place_where_none_can_be_is_told_as_unusable() {
    let dir = tempfile::tempdir().unwrap();
    let answers = served(&dir.path().join("absent").join("index"), b"").unwrap();

    assert!(matches!(answers.as_slice(), [Answer::Unusable(_)]), "{answers:?}");
}

#[test]
fn a_keeper_that_hangs_dies_or_talks_nonsense_gives_an_error_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let run = |script: &str| {
        let program = program(dir.path(), script);
        let many = requests_of(100);
        let limit = Duration::from_millis(500);
        runtime().block_on(child::ask((&program, dir.path()), &many, 2, limit)).unwrap_err()
    };

    assert!(matches!(run("exec sleep 60"), ChildError::Slow(_)));
    assert!(matches!(run("cat >/dev/null; exec sleep 60"), ChildError::Slow(_)));
    assert!(matches!(run("kill -9 $$"), ChildError::Ended(_)));
    assert!(matches!(run("cat >/dev/null; exit 3"), ChildError::Ended(_)));
    assert!(matches!(run("cat >/dev/null; printf '\"do'"), ChildError::Ended(_)));
    assert!(matches!(run("cat >/dev/null; echo nonsense"), ChildError::Garbled(_)));
    assert!(matches!(run("cat >/dev/null; yes '{\"set_aside\":\"/x\"}'"), ChildError::Garbled(_)));
    assert!(matches!(run("cat >/dev/null; tr '\\0' x </dev/zero"), ChildError::Garbled(_)));
    let unusable = run("cat >/dev/null; echo '{\"unusable\":\"no space\"}'");
    assert!(matches!(unusable, ChildError::Unusable(reason) if reason == "no space"));
    let absent = child::ask((Path::new("/nonexistent"), dir.path()), &[], 2, Duration::from_secs(1));
    assert!(matches!(runtime().block_on(absent), Err(ChildError::Start(_))));
}

#[test]
fn a_keeper_gets_no_environment_and_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    let own = fs::read_link(own).unwrap().display().to_string();
    let script =
        "cat >/dev/null; cat /proc/$$/environ >environment; ls -l /proc/$$/fd >open; echo '\"done\"'";
    let program = program(dir.path(), &format!("cd {}; {script}", dir.path().display()));

    let answers = runtime().block_on(child::ask((&program, dir.path()), &[], 2, Duration::from_secs(5)));

    assert_eq!(answers.unwrap(), []);
    assert_eq!(fs::read(dir.path().join("environment")).unwrap(), b"");
    let open = fs::read_to_string(dir.path().join("open")).unwrap();
    assert!(open.contains("pipe:") && !open.contains(&own), "{own} is among {open}");
}

#[test]
fn what_a_failed_keeper_had_is_tried_again_a_few_times_and_then_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::kept_by(program(dir.path(), "cat >/dev/null; exit 1"), dir.path().join("index"));
    runtime().block_on(async {
        assert_eq!(index.due_at(), None);
        index.remember_path(VPI, (last(1).device, last(1).remote), time());
        for _ in 0..ATTEMPTS {
            let due_at = index.due_at().unwrap();
            index.on_time(due_at);
            assert_eq!(index.due_at(), None);
            index.finished().await;
            assert!(!index.waiting.is_empty());
        }
        assert_eq!(index.due_at(), None);

        index.program = program(dir.path(), "cat >/dev/null; echo '\"done\"'");
        index.remember_path(VPI, (last(2).device, last(2).remote), time());
        index.on_time(index.due_at().unwrap());
        index.finished().await;
        assert!(index.waiting.is_empty());
        assert_eq!((index.due_at(), index.failures), (None, 0));
    });
}

#[test]
fn a_path_that_stays_as_it_is_starts_no_keeper_until_its_time_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::kept_by(program(dir.path(), "cat >/dev/null; echo '\"done\"'"), dir.path().into());
    let start = time();
    let later = |secs: u64| Time { wall_ms: start.wall_ms + secs * 1_000, ..start };
    let reached = (last(1).device, last(1).remote);
    runtime().block_on(async {
        index.remember_path(VPI, reached, start);
        index.on_time(index.due_at().unwrap());
        index.finished().await;

        index.remember_path(VPI, reached, later(REFRESH_SECS - 1));
        assert_eq!(index.due_at(), None);
        index.remember_path(VPI, reached, later(REFRESH_SECS));
        assert!(index.due_at().is_some());

        index.close(Duration::from_secs(5)).await;
        assert!(index.waiting.is_empty());
    });
}

#[test]
fn a_few_keepers_follow_each_other_and_then_they_pause() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::kept_by(program(dir.path(), "cat >/dev/null; echo '\"done\"'"), dir.path().into());
    let mut pauses = Vec::new();
    runtime().block_on(async {
        for device in 0..8 {
            let now = time();
            index.remember_path(VPI, (last(device).device, last(device).remote), now);
            let due_at = index.due_at().unwrap();
            pauses.push(due_at - now.now);
            index.on_time(due_at);
            index.finished().await;
        }
    });
    assert!(pauses[..2].iter().all(Duration::is_zero), "{pauses:?}");
    assert!(pauses[7] > PAUSE, "{pauses:?}");
    let now = time();
    index.remember_path(VpiId([9; 32]), (last(1).device, last(1).remote), now);
    assert_eq!(index.due_at(), Some(now.now), "the first path of a VPI waits for no pause");
}

#[test]
fn closing_does_not_wait_for_a_keeper_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::kept_by(program(dir.path(), "exec sleep 60"), dir.path().join("index"));
    runtime().block_on(async {
        index.remember_path(VPI, (last(1).device, last(1).remote), time());
        let began_at = Instant::now();
        index.close(Duration::from_millis(300)).await;
        assert!(began_at.elapsed() < KEEPER_WITHIN);
    });
}

#[test]
fn of_what_waits_the_newest_of_each_device_is_kept_and_its_number_is_bounded() {
    let mut batch = Batch::default();
    for counter in [3, 9, 4] {
        batch.presence(VPI, presence(1, counter));
    }
    let mut later = Batch::default();
    later.presence(VPI, presence(1, 5));
    later.path(VPI, last(1));
    batch.extend(later);
    let waiting = [Fact::Path(VPI, last(1)), Fact::Presence(VPI, presence(1, 9))];
    assert_eq!(batch.requests(), waiting.map(|fact| Request::Change(Change::Remember(fact))));

    for number in 0..DEVICES_MAX as u32 + 10 {
        let mut device = [0; 32];
        device[..4].copy_from_slice(&number.to_be_bytes());
        batch.path(VPI, LastPath { device: DeviceId::from(device), ..last(1) });
    }
    let taken = batch.take(REQUESTS_MAX).requests();
    assert_eq!(taken.len(), REQUESTS_MAX);
    assert_eq!(taken.len() + batch.requests().len(), DEVICES_MAX + 1);

    let mut left = Batch::default();
    left.forget(VPI);
    batch.extend(left);
    assert_eq!(batch.requests(), [Request::Change(Change::Forget(VPI))]);
}

fn served(folder: &Path, told: &[u8]) -> Result<Vec<Answer>, KeeperError> {
    let mut said = Vec::new();
    serve(folder, told, &mut said)?;
    Ok(said
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect())
}

fn requests(facts: &[Fact]) -> Vec<u8> {
    let changes = facts.iter().cloned().map(Change::Remember).map(Request::Change);
    changes.flat_map(|request| line(&request).unwrap()).collect()
}

fn requests_of(count: u8) -> Vec<Request> {
    (0..count).map(|n| Request::Change(Change::Remember(Fact::Presence(VPI, presence(n, 1))))).collect()
}

/// A program that does what `script` says, whatever its arguments.
fn program(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("program");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn time() -> Time {
    Time { now: Instant::now(), wall_ms: 1_800_000_000_000 }
}

fn last(device: u8) -> LastPath {
    let remote = ([192, 0, 2, device], 41_414).into();
    LastPath { device: DeviceId::from([device; 32]), remote, last_at: 1_800_000_000 }
}

fn presence(device: u8, counter: u64) -> LastPresence {
    let object = vec![device; 500].into();
    LastPresence { device: DeviceId::from([device; 32]), counter, last_at: 1_800_000_000, object }
}
