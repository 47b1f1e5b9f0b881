//! Root for the set-up, none for the run: what the kernel says of a node that runs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::{Member, scenario};

#[test]
fn a_running_node_has_no_capability_and_leaves_no_core() {
    scenario("privilege", 1, |lab| {
        let member = Member::found(lab.host("a")?, &[])?;
        let process = Path::new("/proc").join(fs::read_to_string(member.host.state.join("lock"))?.trim());
        let limits = fs::read_to_string(process.join("limits"))?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size"));
        let core: Vec<_> =
            core.context("no limit of core files")?.split_whitespace().skip(4).take(2).collect();
        ensure!(core == ["0", "0"], "core files may have {core:?} bytes");
        let mut threads = 0;
        for thread in fs::read_dir(process.join("task"))? {
            check_thread(&fs::read_to_string(thread?.path().join("status"))?)?;
            threads += 1;
        }
        ensure!(threads >= 2, "the driver and a pump run, and {threads} threads were seen");
        Ok(())
    });
}

fn check_thread(status: &str) -> Result<()> {
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).with_context(|| format!("no {name} in the status of a thread"))
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(u64::from_str_radix(value(set)?, 16)? == 0, "{set} is {}", value(set)?);
    }
    ensure!(value("NoNewPrivs")? == "1", "a set-user-id program would give privileges back");
    ensure!(value("Groups")?.split_whitespace().count() <= 1, "groups are left: {}", value("Groups")?);
    Ok(())
}
