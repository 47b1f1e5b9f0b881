//! The modelled internet between hosts.

pub(crate) mod link;
