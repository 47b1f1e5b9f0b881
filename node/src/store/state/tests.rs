//! The state folder: modes, owners, links and the lock.

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_made_folder_has_exactly_the_promised_modes() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("vpi");

    let state = State::open(&dir, None).unwrap();

    assert_eq!(mode(&dir), 0o750);
    assert_eq!(mode(&dir.join("keys")), 0o700);
    assert_eq!(mode(&dir.join("lock")), 0o600);
    assert_eq!(state.owner().user, geteuid().as_raw());
    assert_eq!(State::control_path(&dir), dir.join("control.sock"));
}

#[test]
fn a_wider_folder_is_refused_with_the_chmod_to_run() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("vpi");
    drop(State::open(&dir, None).unwrap());

    for (path, wide, command) in [(dir.clone(), 0o755, "chmod 750 "), (dir.join("keys"), 0o740, "chmod 700 ")]
    {
        let before = mode(&path);
        set_mode(&path, wide);
        let error = State::open(&dir, None).unwrap_err();
        assert!(matches!(error, StoreError::Loose { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{command}{}", path.display())), "{error}");
        set_mode(&path, before);
    }
    State::open(&dir, None).unwrap();
}

#[test]
fn a_narrower_folder_is_accepted() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("vpi");
    drop(State::open(&dir, None).unwrap());
    set_mode(&dir, 0o700);

    State::open(&dir, None).unwrap();
}

#[test]
fn a_second_node_on_one_state_is_refused_and_told_the_first_ones_process() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("vpi");
    let first = State::open(&dir, None).unwrap();

    let error = State::open(&dir, None).unwrap_err();

    assert!(matches!(&error, StoreError::Locked { pid: Some(pid), .. } if *pid == std::process::id()));
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(first);
    State::open(&dir, None).unwrap();
}

#[test]
fn a_link_in_place_of_folder_or_lock_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (dir, elsewhere) = (root.path().join("vpi"), root.path().join("elsewhere"));
    drop(State::open(&dir, None).unwrap());
    fs::write(&elsewhere, "precious").unwrap();
    fs::remove_file(dir.join("lock")).unwrap();

    std::os::unix::fs::symlink(&elsewhere, dir.join("lock")).unwrap();
    State::open(&dir, None).unwrap_err();
    fs::remove_file(dir.join("lock")).unwrap();
    fs::hard_link(&elsewhere, dir.join("lock")).unwrap();
    State::open(&dir, None).unwrap_err();

    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
}

#[test]
fn only_the_owner_and_root_use_a_folder() {
    assert!(may_use(1000, 1000) && may_use(0, 1000) && may_use(1000, 0));
    assert!(!may_use(1000, 1001));
}

#[test]
fn what_root_makes_for_a_user_belongs_to_that_user() {
    if !geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("vpi");
    let owner = Owner { user: 4242, group: 4343 };

    let state = State::open(&dir, Some(owner)).unwrap();
    state.vpi(&VpiId([1; 32])).unwrap();

    let vpi = dir.join("vpi").join(VpiId([1; 32]).to_string());
    for path in [dir.clone(), dir.join("keys"), dir.join("lock"), dir.join("vpi"), vpi] {
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (4242, 4343), "{}", path.display());
    }
}
