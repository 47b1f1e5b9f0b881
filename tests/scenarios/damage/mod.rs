//! Damaged files, disks that went back, nodes that are killed: a node starts again without help, and loses nothing that it
//! said it had done.

mod file;
mod kill;
mod place;
mod rollback;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Host, wait};

/// How long a keeper of the index may outlive its node.
const KEEPER_LIMIT: Duration = Duration::from_secs(10);

/// A device by its alias.
type Aliases = BTreeMap<String, String>;

/// The members of the first VPI on `host`, by the aliases that they have there.
fn aliases(host: &Host) -> Result<Aliases> {
    let status = host.vpi(&["status", "--json"])?.json()?;
    let members = status["vpis"][0]["members"].as_array().context("no members in the status")?;
    let fact = |member: &Value, key: &str| Some(member[key].as_str()?.to_owned());
    Ok(members.iter().filter_map(|member| Some((fact(member, "alias")?, fact(member, "id")?))).collect())
}

/// Copies what a folder holds, with owners, modes and times.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied =
        std::process::Command::new("cp").args(["-a", "--no-target-directory"]).args([from, to]).status()?;
    ensure!(copied.success(), "cp -a failed");
    Ok(())
}

/// Removes the state of a node that was killed; its keeper of the index may be at work for a moment longer.
fn remove(state: &Path) -> Result<()> {
    wait::until("the state folder to be removable", KEEPER_LIMIT, || match fs::remove_dir_all(state) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(None),
        removed => Ok(Some(removed?)),
    })
}

/// SplitMix64: small, and the same on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
