//! sshd with a host key and one user key of its own, `ssh`, and rsync over it.

use std::fmt::Display;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

use super::{CLIENT_LIMIT, SERVER_LIMIT, Server};
use crate::{Host, wait};

/// sshd on port 22 of every address. It knows one key, and lets it in as root.
pub struct Ssh {
    _server: Server,
    folder: PathBuf,
}

impl Ssh {
    /// Starts sshd on `host`, and returns when it lets in.
    ///
    /// # Errors
    /// It is not installed, or does not let in.
    pub fn start(host: &Host) -> Result<Self> {
        let folder = host.state.with_file_name("ssh");
        fs::create_dir(&folder)?;
        for key in ["host", "user"] {
            let path = folder.join(key);
            let words = ["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", &path.to_string_lossy()];
            host.run("ssh-keygen", &words, CLIENT_LIMIT)?.success()?;
        }
        let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let config = format!(
            "Port 22\nListenAddress 0.0.0.0\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n",
            at("host"),
            at("user.pub"),
        );
        fs::write(folder.join("sshd_config"), config)?;
        let host_key = fs::read_to_string(folder.join("host.pub"))?;
        fs::write(folder.join("known_hosts"), format!("* {host_key}"))?;
        let server = Server::spawn(
            host.command("unshare", &["--mount", "sh", "-c", START, "sh", &folder.to_string_lossy()]),
            "sshd",
        )?;
        let ssh = Self { _server: server, folder };
        wait::until("sshd to let in", SERVER_LIMIT, || Ok(ssh.run(host, Ipv4Addr::LOCALHOST, "true").ok()))?;
        Ok(ssh)
    }

    /// What a command prints that `ssh` on `from` runs at `address`.
    ///
    /// # Errors
    /// ssh's own sentence, or the command fails.
    pub fn run(&self, from: &Host, address: impl Display, command: &str) -> Result<String> {
        let (user, options) = (format!("root@{address}"), self.options());
        let mut words: Vec<_> = options.iter().map(String::as_str).collect();
        words.extend([user.as_str(), command]);
        Ok(from.run("ssh", &words, CLIENT_LIMIT)?.success()?.stdout)
    }

    /// Copies a tree of files from `from` to `address` with rsync over ssh, and compares what came: names, links and
    /// content.
    ///
    /// # Errors
    /// rsync's own sentence, or the trees differ.
    pub fn copy_tree(&self, from: &Host, address: impl Display) -> Result<()> {
        let (near, far) = (self.folder.join("near"), self.folder.join("far"));
        for former in [&near, &far].into_iter().filter(|folder| folder.exists()) {
            fs::remove_dir_all(former)?;
        }
        grow_tree(&near)?;
        let shell = format!("ssh {}", self.options().join(" "));
        let (source, target) = (format!("{}/", near.display()), format!("root@{address}:{}", far.display()));
        from.run("rsync", &["-a", "-e", &shell, &source, &target], CLIENT_LIMIT)?.success()?;
        let (sent, came) = (describe(&near)?, describe(&far)?);
        ensure!(sent == came && sent.lines().count() > FILES, "sent:\n{sent}came:\n{came}");
        Ok(())
    }

    fn options(&self) -> Vec<String> {
        let (key, hosts) = (self.folder.join("user"), self.folder.join("known_hosts"));
        let words = [
            "-F",
            "none",
            "-i",
            &key.to_string_lossy(),
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            &format!("UserKnownHostsFile={}", hosts.display()),
            "-o",
            "ConnectTimeout=10",
        ];
        words.map(str::to_owned).to_vec()
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        // The lab removes the folder above it as well.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// sshd wants an empty folder /run/sshd: it gets one that no other process sees, on top of the machine's /run, with the
/// labs' folder put back into it.
const START: &str = "mount --bind /run/vpi-labs /mnt && mount -t tmpfs none /run && mkdir /run/sshd /run/vpi-labs && \
                     mount --move /mnt /run/vpi-labs && exec /usr/sbin/sshd -D -e -f \"$1/sshd_config\"";

const FILES: usize = 50;

/// Files of 0 to 2.4 MB in folders, and a link.
fn grow_tree(root: &Path) -> Result<()> {
    for number in 0..FILES {
        let folder = root.join(format!("folder {}", number % 7));
        fs::create_dir_all(&folder)?;
        let seed = Sha256::digest(number.to_be_bytes());
        fs::write(folder.join(format!("file-{number}")), seed.repeat(number * number * 30))?;
    }
    std::os::unix::fs::symlink("folder 0/file-0", root.join("link"))?;
    Ok(())
}

/// A line for each entry, sorted: its path, and what it holds.
fn describe(root: &Path) -> Result<String> {
    let (mut lines, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root)?.display().to_string();
            if path.is_symlink() {
                lines.push(format!("{name} -> {}\n", fs::read_link(&path)?.display()));
            } else if path.is_dir() {
                folders.push(path);
            } else {
                lines.push(format!("{name} {:x?}\n", Sha256::digest(fs::read(&path)?)));
            }
        }
    }
    lines.sort();
    Ok(lines.concat())
}
