//! The log against truncation, flipped bits, torn writes and a full disk.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use super::*;

/// Records of several lengths, one of which holds the beginning of a record.
fn records() -> Vec<Vec<u8>> {
    vec![
        vec![1; 1],
        (0..=90).collect(),
        [&MARK[..], &[0, 0, 0, 9], &[7; 40]].concat(),
        vec![0; 33],
        vec![0xff; 20],
    ]
}

fn written(path: &Path, records: &[Vec<u8>]) -> Vec<u8> {
    let (mut log, _, _) = open(path).unwrap();
    log.append(&records.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    fs::read(path).unwrap()
}

/// Opens a log of any records.
fn open(path: &Path) -> Result<(ObjectLog, Vec<Vec<u8>>, Damage), StoreError> {
    ObjectLog::open(path, |payload| Some(payload.to_vec()))
}

/// The same where the log alone is left.
fn open_alone(path: &Path) -> (ObjectLog, Vec<Vec<u8>>, Damage) {
    // There is none of an empty log.
    let _ = fs::remove_file(beside(path, COPY));
    open(path).unwrap()
}

/// Where each record ends.
fn ends(records: &[Vec<u8>]) -> Vec<usize> {
    records
        .iter()
        .scan(0, |end, record| {
            *end += HEADER_BYTES + record.len();
            Some(*end)
        })
        .collect()
}

#[test]
fn what_was_appended_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let records = records();
    written(&path, &records[..2]);
    written(&path, &records[2..]);

    let (_, read, damage) = open(&path).unwrap();

    assert_eq!(read, records);
    assert!(damage.is_none());
    assert!(!beside(&path, "damaged").exists());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn every_truncation_keeps_all_whole_records_and_cuts_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let records = records();
    let whole = written(&path, &records);
    let ends = ends(&records);

    for length in 0..=whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let kept = ends.iter().filter(|end| **end <= length).count();
        let torn = length - kept.checked_sub(1).map_or(0, |last| ends[last]);

        let (mut log, read, damage) = open_alone(&path);
        assert_eq!(read, records[..kept], "at {length}");
        assert_eq!(damage, Damage { torn_bytes: torn, ..Damage::default() }, "at {length}");

        log.append(&[b"after"]).unwrap();
        let (_, read, damage) = open(&path).unwrap();
        assert_eq!(read.last().unwrap(), b"after");
        assert_eq!(read.len(), kept + 1);
        assert!(damage.is_none());
    }
}

#[test]
fn every_flipped_bit_costs_the_record_it_is_in_and_no_other() {
    let records = records();
    let dir = tempfile::tempdir().unwrap();
    let whole = written(&dir.path().join("objects.log"), &records);
    let ends = ends(&records);

    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let hit = ends.iter().filter(|end| **end <= bit / 8).count();
        let mut expected = records.clone();
        expected.remove(hit);

        let scan = Scan::of(&bytes);

        let read: Vec<_> = scan.good.iter().map(|r| bytes[r.start + HEADER_BYTES..r.end].to_vec()).collect();
        assert_eq!(read, expected, "bit {bit}");
        assert_eq!(scan.bad.len(), 1, "bit {bit}");
    }
}

#[test]
fn a_bad_record_is_moved_aside_and_the_log_is_whole_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let records = records();
    let mut bytes = written(&path, &records);
    let (from, to) = (ends(&records)[0], ends(&records)[1]);
    bytes[from + 20] ^= 1;
    bytes.extend_from_slice(&MARK);
    fs::write(&path, &bytes).unwrap();

    let (mut log, read, damage) = open_alone(&path);
    log.append(&[b"after"]).unwrap();

    let expected =
        Damage { bad_stretches: 1, bad_bytes: to - from, torn_bytes: MARK.len(), ..Damage::default() };
    assert_eq!(damage, expected);
    assert_eq!(read, [&records[..1], &records[2..]].concat());
    assert_eq!(fs::read(beside(&path, "damaged")).unwrap(), [&bytes[from..to], &MARK].concat());
    let (_, read, damage) = open(&path).unwrap();
    assert_eq!(read, [&records[..1], &records[2..], &[b"after".to_vec()]].concat());
    assert!(damage.is_none());
}

#[test]
fn a_tail_that_was_allocated_and_never_written_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let records = records();
    let whole = written(&path, &records);
    let from = ends(&records)[3];
    for length in from..whole.len() {
        let mut bytes = whole[..length].to_vec();
        bytes.resize(4_096, 0);
        fs::write(&path, &bytes).unwrap();

        let (_, read, damage) = open_alone(&path);

        assert_eq!(read, records[..4], "at {length}");
        assert_eq!(damage, Damage { torn_bytes: 4_096 - from, ..Damage::default() }, "at {length}");
    }
}

#[test]
fn bytes_that_are_no_log_yield_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let zeros = vec![0; 8_192];
    let marks = MARK.repeat(2_048);
    let lengths: Vec<u8> = [&MARK[..], &[0xff; 8]].concat().repeat(100);

    for bytes in [zeros, marks, lengths] {
        fs::write(&path, &bytes).unwrap();
        let (_, read, damage) = open(&path).unwrap();
        assert!(read.is_empty());
        assert_eq!(damage.torn_bytes, bytes.len());
    }
}

#[test]
fn records_of_no_length_or_too_long_are_refused_before_writing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let (mut log, _, _) = open(&path).unwrap();

    for record in [vec![], vec![0; PAYLOAD_MAX_BYTES + 1]] {
        let error = log.append(&[b"first", &record]).unwrap_err();
        assert!(matches!(error, StoreError::RecordLength(length) if length == record.len()));
    }
    log.append(&[&[0; PAYLOAD_MAX_BYTES]]).unwrap();

    assert_eq!(open(&path).unwrap().1, [vec![0; PAYLOAD_MAX_BYTES]]);
}

#[test]
fn whatever_happens_to_the_log_the_copy_fills_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let records = records();
    let whole = written(&path, &records);
    let sorted = |mut records: Vec<Vec<u8>>| {
        records.sort();
        records
    };
    open(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        for bytes in [flipped, whole[..at].to_vec()] {
            fs::write(&path, &bytes).unwrap();
            let (_, read, _) = open(&path).unwrap();
            assert_eq!(sorted(read), sorted(records.clone()), "at {at}");
            fs::write(&path, &whole).unwrap();
            open(&path).unwrap();
        }
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let (_, read, damage) = open(&path).unwrap();
    assert_eq!(sorted(read), sorted(records.clone()));
    assert!(damage.is_moved && damage.recovered == records.len() && beside(&path, "damaged-2").is_dir());
}

#[test]
fn a_copy_that_is_no_log_is_set_aside_and_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let whole = written(&path, &records());
    open(&path).unwrap();
    let copy = beside(&path, COPY);
    assert_eq!(fs::read(&copy).unwrap(), whole);
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        for (bytes, is_bad) in
            [(flipped, true), (whole[..at].to_vec(), !ends(&records()).contains(&at) && at > 0)]
        {
            fs::write(&copy, &bytes).unwrap();
            let (_, read, damage) = open(&path).unwrap();
            assert_eq!(
                (read, damage),
                (records(), Damage { is_copy_bad: is_bad, ..Damage::default() }),
                "at {at}"
            );
            assert_eq!(fs::read(&copy).unwrap(), whole);
            let aside = beside(&copy, "damaged");
            assert_eq!(fs::read(&aside).ok(), is_bad.then_some(bytes), "at {at}");
            let _ = fs::remove_file(aside);
        }
    }
}

#[test]
fn records_of_others_are_set_aside_and_doubles_are_given_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let mut written = written(&path, &[b"a1".to_vec(), b"b1".to_vec(), b"a2".to_vec()]);
    encode(b"a1", &mut written).unwrap();
    fs::write(&path, &written).unwrap();
    let ours = |payload: &[u8]| payload.starts_with(b"a").then(|| payload.to_vec());

    let (_, read, damage) = ObjectLog::open(&path, ours).unwrap();

    assert_eq!(read, [b"a1", b"a2"]);
    assert_eq!((damage.bad_stretches, damage.bad_bytes), (1, HEADER_BYTES + 2));
    assert_eq!(fs::read(&path).unwrap().len(), written.len() - HEADER_BYTES - 2);
    assert!(ObjectLog::open(&path, ours).unwrap().2.is_none());
}

#[test]
fn what_is_in_the_log_is_not_appended_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let records = records();
    let whole = written(&path, &records);
    let (mut log, _, _) = open(&path).unwrap();
    log.append(&[&records[1], b"other", b"other", &records[0]]).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), whole.len() + HEADER_BYTES + 5);
    assert_eq!(log.count(), records.len() as u64 + 1);
    assert_eq!(open(&path).unwrap().0.count(), log.count());
}

#[test]
fn a_log_is_overgrown_when_less_than_half_of_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let (mut log, _, _) = open(&path).unwrap();
    for number in 0..=u8::MAX {
        log.append(&[&[number; 300]]).unwrap();
    }
    let bytes = fs::metadata(&path).unwrap().len();
    assert!(bytes > OVERGROWN_BYTES && !log.is_overgrown(bytes / 2) && log.is_overgrown(bytes / 2 - 1));
    let kept = log.kept(|payload| payload[0] < 9).unwrap();
    log.make_anew(kept).unwrap();
    assert!(!log.is_overgrown(0), "what is small is left as it is");
}

/// Those of [`records`] that count on.
fn counts(payload: &[u8]) -> bool {
    payload.len() > 30
}

#[test]
fn a_log_that_is_made_anew_has_what_counts_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    written(&path, &records());
    let (mut log, mut expected, _) = open(&path).unwrap();
    expected.retain(|payload| counts(payload));

    let kept = log.kept(counts).unwrap();
    assert_eq!(kept.count(), expected.len() as u64);
    log.make_anew(kept).unwrap();
    log.append(&[b"after", &records()[0]]).unwrap();

    expected.extend([b"after".to_vec(), records()[0].clone()]);
    assert_eq!(log.count(), expected.len() as u64);
    let (_, read, damage) = open(&path).unwrap();
    assert_eq!(read, expected);
    assert!(damage.is_none(), "what was given up does not come back: {damage:?}");
}

#[test]
fn a_crash_while_the_log_is_made_anew_leaves_the_former_or_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let (log_next, copy) = (beside(&path, "new"), beside(&path, COPY));
    let copy_next = beside(&copy, "new");
    let former = written(&path, &records());
    let (log, ..) = open(&path).unwrap();
    let next = log.kept(counts).unwrap().bytes;
    // Up to which step it came: the copy's next file in part, the copy, the log's next file in part, the log.
    let in_part = (0..=next.len()).map(|length| &next[..length]);
    let first = in_part.clone().map(|part| (&former, Some((&copy_next, part)), &former));
    let second = in_part.map(|part| (&next, Some((&log_next, part)), &former));
    for (copied, left_over, logged) in first.chain(second).chain([(&next, None, &next)]) {
        for file in [&log_next, &copy_next] {
            let _ = fs::remove_file(file);
        }
        fs::write(&copy, copied).unwrap();
        fs::write(&path, logged).unwrap();
        if let Some((file, part)) = left_over {
            fs::write(file, part).unwrap();
        }
        let (mut log, read, damage) = open(&path).unwrap();
        let mut expected = records();
        expected.retain(|payload| *logged == former || counts(payload));
        assert_eq!(read, expected);
        assert!(damage.is_none());
        let kept = log.kept(counts).unwrap();
        log.make_anew(kept).unwrap();
        assert_eq!(fs::read(&path).unwrap(), next);
    }
}

#[test]
fn a_log_that_cannot_be_made_anew_goes_on_as_it_was() {
    let records = records();
    for blocked in ["objects.log.new", "objects.log.copy.new"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.log");
        written(&path, &records);
        let (mut log, ..) = open(&path).unwrap();
        fs::create_dir(dir.path().join(blocked)).unwrap();

        let kept = log.kept(counts).unwrap();
        log.make_anew(kept).unwrap();
        log.append(&[b"after"]).unwrap();

        fs::remove_dir(dir.path().join(blocked)).unwrap();
        let (_, read, damage) = open(&path).unwrap();
        assert_eq!(read, [&records[..], &[b"after".to_vec()]].concat());
        assert!(damage.is_none());
    }
}

/// Set in the process that [`an_append_the_disk_refuses_leaves_the_log_as_it_was`] starts again under a file size limit.
const LIMITED_LOG: &str = "VPI_LIMITED_LOG";

#[test]
fn an_append_the_disk_refuses_leaves_the_log_as_it_was() {
    if let Some(path) = std::env::var_os(LIMITED_LOG) {
        return fill(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.log");
    let this = std::env::current_exe().unwrap();
    let name = "store::objects::tests::an_append_the_disk_refuses_leaves_the_log_as_it_was";

    // A write beyond the limit is cut short, and the next one refused: as on a full disk.
    let script = r#"ulimit -f 24; trap '' XFSZ; exec "$0" --exact "$1""#;
    let output = Command::new("bash")
        .args(["-c", script])
        .arg(this)
        .arg(name)
        .env(LIMITED_LOG, &path)
        .output()
        .unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let (_, read, damage) = open(&path).unwrap();
    assert_eq!(read.last().unwrap(), b"a short one still fits");
    assert_eq!(read.len(), 6);
    assert!(damage.is_none());
}

/// Appends until the disk refuses, then something short.
fn fill(path: &Path) {
    let (mut log, _, _) = open(path).unwrap();
    let refused = (0..10).map(|number| log.append(&[&[number; PAYLOAD_MAX_BYTES]])).find_map(Result::err);
    assert!(matches!(refused, Some(StoreError::Io { .. })));
    log.append(&[b"a short one still fits"]).unwrap();
}
