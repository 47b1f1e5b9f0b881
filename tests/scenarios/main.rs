//! The scenarios: promises to the user, each kept by the real binary in a network of its own.
//!
//! They need root, and are behind the feature `netns`. The whole workspace is chosen with them, so that their rogue and the
//! binary under test share what is built: `cargo test --release --workspace --features tests/netns --test scenarios`.

#[cfg(feature = "netns")]
mod applications;
#[cfg(feature = "netns")]
mod bad_link;
#[cfg(feature = "netns")]
mod bad_use;
#[cfg(feature = "netns")]
mod beacon;
#[cfg(feature = "netns")]
mod carry;
#[cfg(feature = "netns")]
mod commands;
#[cfg(feature = "netns")]
mod damage;
#[cfg(feature = "netns")]
mod drop_stance;
#[cfg(feature = "netns")]
mod finding;
#[cfg(feature = "netns")]
mod index;
#[cfg(feature = "netns")]
mod invites;
#[cfg(feature = "netns")]
mod join;
#[cfg(feature = "netns")]
mod labs;
#[cfg(feature = "netns")]
mod lan;
#[cfg(feature = "netns")]
mod liars;
#[cfg(feature = "netns")]
mod loopback;
#[cfg(feature = "netns")]
mod machine;
#[cfg(feature = "netns")]
mod many;
#[cfg(feature = "netns")]
mod mapping;
#[cfg(feature = "netns")]
mod matrix;
#[cfg(feature = "netns")]
mod mtu;
#[cfg(feature = "netns")]
mod names;
#[cfg(feature = "netns")]
mod nats;
#[cfg(feature = "netns")]
mod netcheck;
#[cfg(feature = "netns")]
mod offloads;
#[cfg(feature = "netns")]
mod privacy;
#[cfg(feature = "netns")]
mod privilege;
#[cfg(feature = "netns")]
mod punching;
#[cfg(feature = "netns")]
mod reach;
#[cfg(feature = "netns")]
mod records;
#[cfg(feature = "netns")]
mod relay;
#[cfg(feature = "netns")]
mod removal;
#[cfg(feature = "netns")]
mod restart;
#[cfg(feature = "netns")]
mod roaming;
#[cfg(feature = "netns")]
mod rogue;
#[cfg(feature = "netns")]
mod statics;
#[cfg(feature = "netns")]
mod stock;
#[cfg(feature = "netns")]
mod strangers;
#[cfg(feature = "netns")]
mod unbroken;
#[cfg(feature = "netns")]
mod wan;
#[cfg(feature = "netns")]
mod why;

#[cfg(not(feature = "netns"))]
#[test]
#[ignore = "the scenarios need root and network namespaces: netns-scripts/test.sh build scenarios"]
fn scenarios_run_with_the_feature_netns() {}
