//! The modelled internet between hosts.

pub(crate) mod cut;
pub(crate) mod link;
pub(crate) mod nat;
