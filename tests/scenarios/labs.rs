//! The labs themselves: what one of them takes down is its own.

use std::time::Duration;

use anyhow::ensure;
use tests::{Lab, scenario};

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_lab_that_is_taken_down_takes_no_other_with_it_whose_name_it_begins() {
    scenario("begun-a", 1, |lab| {
        let other = Lab::lan("begun", 1)?;
        let namespace = other.switch();
        drop(other);
        let host = lab.host("a")?;
        let left = host.run("ip", &["netns", "list"], LIMIT)?.success()?.stdout;
        ensure!(!left.contains(&namespace), "{namespace} is still there: {left}");
        host.run("ping", &["-c", "1", &host.address.to_string()], LIMIT)?.success()?;
        ensure!(left.contains(&lab.switch()), "{} is gone: {left}", lab.switch());
        Ok(())
    });
}
