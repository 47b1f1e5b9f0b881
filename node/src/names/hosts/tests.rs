//! The block, on files of every kind that people have.

use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use super::*;
use crate::loopback::lab::{in_own_namespace, run};

const STATE: &str = "/nonexistent/vpi";
const BLOCK: &str = "# vpi begin /nonexistent/vpi\n\
                     # written by `vpi hosts --install`, taken out by `vpi hosts --uninstall`\n\
                     127.80.3.9 laptop.home.vpi\n127.80.12.7 nas.home.vpi\n# vpi end /nonexistent/vpi\n";

fn entries() -> Vec<Entry> {
    [("127.80.3.9", "laptop.home.vpi"), ("127.80.12.7", "nas.home.vpi")]
        .map(|(alias, name)| Entry { alias: alias.parse().unwrap(), name: name.into() })
        .to_vec()
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn with(content: &[u8]) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(place.path(), content).unwrap();
        place
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("hosts")
    }

    fn hosts(&self) -> Hosts {
        Hosts::new(&self.path(), Path::new(STATE)).unwrap()
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }
}

#[test]
fn the_block_goes_in_and_out_and_every_other_byte_stays() {
    let huge: Vec<u8> = (0..200_000).flat_map(|n| format!("0.0.0.0 ads{n}.example\n").into_bytes()).collect();
    let contents: [&[u8]; 7] = [
        b"",
        b"127.0.0.1 localhost\n",
        b"127.0.0.1 localhost",
        b"127.0.0.1 localhost\r\n::1 localhost\r\n",
        b"\xff\xfe not text \x00\n\n\n",
        b"\n",
        &huge,
    ];
    for content in contents {
        let place = Place::with(content);
        let hosts = place.hosts();
        assert!(!hosts.is_installed().unwrap());
        assert_eq!(hosts.install(&entries()).unwrap(), Change::Written);
        assert_eq!(hosts.install(&entries()).unwrap(), Change::None);
        assert!(hosts.is_installed().unwrap());
        let installed = place.content();
        assert!(installed.starts_with(content) && installed.ends_with(b"# vpi end /nonexistent/vpi\n"));
        if content.is_empty() || content.ends_with(b"\n") {
            assert_eq!(&installed[content.len()..], BLOCK.as_bytes());
        }
        assert_eq!(hosts.refresh(&[]).unwrap(), Change::Written);
        assert_eq!(hosts.refresh(&entries()).unwrap(), Change::Written);
        assert_eq!(place.content(), installed);
        assert_eq!(hosts.uninstall().unwrap(), Change::Written);
        assert_eq!(place.content(), content);
        assert_eq!(hosts.uninstall().unwrap(), Change::None);
        assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 1, "a file was left beside it");
    }
}

#[test]
fn lines_that_people_put_around_the_block_stay_where_they_are() {
    let place = Place::with(format!("127.0.0.1 localhost\n{BLOCK}10.0.0.5 printer\n").as_bytes());
    place.hosts().refresh(&entries()[..1]).unwrap();
    let text = String::from_utf8(place.content()).unwrap();
    assert!(text.starts_with("127.0.0.1 localhost\n# vpi begin"), "{text}");
    assert!(text.ends_with("laptop.home.vpi\n# vpi end /nonexistent/vpi\n10.0.0.5 printer\n"), "{text}");
    place.hosts().uninstall().unwrap();
    assert_eq!(place.content(), b"127.0.0.1 localhost\n10.0.0.5 printer\n");
}

#[test]
fn a_block_that_an_editor_gave_carriage_returns_is_still_ours() {
    let place = Place::with(format!("127.0.0.1 localhost\n{BLOCK}").replace('\n', "\r\n").as_bytes());
    assert_eq!(place.hosts().refresh(&entries()).unwrap(), Change::Written);
    assert_eq!(place.content(), format!("127.0.0.1 localhost\r\n{BLOCK}").as_bytes());
}

#[test]
fn without_a_block_nothing_is_refreshed_and_no_file_is_made() {
    let place = Place::with(b"127.0.0.1 localhost\n");
    assert_eq!(place.hosts().refresh(&entries()).unwrap(), Change::None);
    assert_eq!(place.content(), b"127.0.0.1 localhost\n");
    fs::remove_file(place.path()).unwrap();
    assert_eq!(place.hosts().refresh(&entries()).unwrap(), Change::None);
    assert!(!place.path().exists());
    assert_eq!(place.hosts().install(&entries()).unwrap(), Change::Written);
    assert_eq!(place.content(), BLOCK.as_bytes());
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn a_half_or_doubled_block_is_left_alone_and_the_line_is_named() {
    let half = BLOCK.trim_end().rsplit_once('\n').unwrap().0;
    for (content, line) in [
        (format!("a\n{half}\n10.0.0.5 printer\n"), "line 2"),
        (format!("{BLOCK}b\n{BLOCK}"), "line 7"),
        ("a\n# vpi end /nonexistent/vpi\n".to_owned(), "line 2"),
        (format!("# vpi end /nonexistent/vpi\n{half}\n"), "line 1"),
    ] {
        let place = Place::with(content.as_bytes());
        for outcome in
            [place.hosts().install(&entries()), place.hosts().refresh(&entries()), place.hosts().uninstall()]
        {
            let said = outcome.unwrap_err().to_string();
            assert!(said.contains(line) && said.contains("remove its lines"), "{said}");
        }
        assert_eq!(place.content(), content.as_bytes());
    }
}

#[test]
fn two_nodes_have_a_block_each() {
    let place = Place::with(b"127.0.0.1 localhost\n");
    let other = Hosts::new(&place.path(), Path::new("/nonexistent/vpi2")).unwrap();
    place.hosts().install(&entries()[..1]).unwrap();
    other.install(&entries()[1..]).unwrap();
    place.hosts().refresh(&[]).unwrap();
    place.hosts().uninstall().unwrap();
    let text = String::from_utf8(place.content()).unwrap();
    assert!(text.contains("nas.home.vpi") && !text.contains("laptop"), "{text}");
    other.uninstall().unwrap();
    assert_eq!(place.content(), b"127.0.0.1 localhost\n");
    assert!(Hosts::new(&place.path(), Path::new("/nonexistent/a\nb")).is_err());
}

#[test]
fn mode_and_a_link_in_its_place_are_kept() {
    let place = Place::with(b"127.0.0.1 localhost\n");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o640)).unwrap();
    let link = place.dir.path().join("link");
    std::os::unix::fs::symlink(place.path(), &link).unwrap();
    Hosts::new(&link, Path::new(STATE)).unwrap().install(&entries()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(place.hosts().is_installed().unwrap());
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_link_beside_the_file_is_not_written_through() {
    let place = Place::with(b"127.0.0.1 localhost\n");
    let victim = place.dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, beside(&place.path())).unwrap();
    assert!(place.hosts().install(&entries()).is_err());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(place.content(), b"127.0.0.1 localhost\n");
}

#[test]
fn the_lines_of_a_vpi_that_was_taken_down_go() {
    let place = Place::with(b"");
    let mut all = entries();
    all.push(Entry { alias: [127, 81, 1, 1].into(), name: "nas.work.vpi".into() });
    place.hosts().install(&all).unwrap();
    place.hosts().drop_prefixes(&[[127, 81, 0, 0].into()]).unwrap();
    assert_eq!(place.content(), BLOCK.as_bytes());
}

#[test]
fn processes_that_write_at_once_do_not_lose_each_others_block() {
    let place = Place::with(b"127.0.0.1 localhost\n");
    let path = place.path();
    thread::scope(|scope| {
        for number in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let hosts = Hosts::new(path, Path::new(&format!("/nonexistent/{number}"))).unwrap();
                for _ in 0..5 {
                    hosts.install(&entries()).unwrap();
                    hosts.refresh(&[]).unwrap();
                }
            });
        }
    });
    let text = String::from_utf8(place.content()).unwrap();
    assert_eq!(text.matches("# vpi begin").count(), 8, "{text}");
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 1);
}

#[test]
fn what_is_no_file_or_too_large_is_refused() {
    let place = Place::with(b"");
    fs::OpenOptions::new().write(true).open(place.path()).unwrap().set_len(MAX_BYTES + 1).unwrap();
    assert!(matches!(place.hosts().install(&entries()), Err(HostsError::TooLarge(_))));
    fs::remove_file(place.path()).unwrap();
    fs::create_dir(place.path()).unwrap();
    assert!(matches!(place.hosts().install(&entries()), Err(HostsError::NotAFile(_))));
}

#[test]
fn a_file_in_a_read_only_folder_is_written_in_place() {
    in_own_namespace(|| {
        let (place, bound) = (Place::with(b""), Place::with(b"127.0.0.1 container\n"));
        let folder = place.dir.path().display();
        run(&format!("mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"));
        run(&format!("mount --bind {} {}", bound.path().display(), place.path().display()));
        assert_eq!(place.hosts().install(&entries()).unwrap(), Change::Written);
        assert!(bound.content().ends_with(BLOCK.as_bytes()));
        assert_eq!(place.hosts().uninstall().unwrap(), Change::Written);
        assert_eq!(bound.content(), b"127.0.0.1 container\n");
        run(&format!("umount {} && umount {folder}", place.path().display()));
    });
}

#[test]
fn a_file_that_is_a_mount_of_its_own_is_written_in_place() {
    in_own_namespace(|| {
        let (place, bound) = (Place::with(b"127.0.0.1 localhost\n"), Place::with(b"127.0.0.1 container"));
        run(&format!("mount --bind {} {}", bound.path().display(), place.path().display()));
        assert_eq!(place.hosts().install(&entries()).unwrap(), Change::Written);
        let installed = bound.content();
        assert!(installed.starts_with(b"127.0.0.1 container\n# vpi begin"));
        assert_eq!(place.hosts().refresh(&[]).unwrap(), Change::Written);
        assert!(bound.content().len() < installed.len(), "nothing of the longer content is left");
        assert_eq!(place.hosts().uninstall().unwrap(), Change::Written);
        run(&format!("umount {}", place.path().display()));
        assert_eq!(
            (place.content(), bound.content()),
            (b"127.0.0.1 localhost\n".into(), b"127.0.0.1 container".into())
        );
        assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 1, "a file was left beside it");
    });
}
