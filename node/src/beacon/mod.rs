//! A beacon: a node that chose to be visible, so that members find each other through it.

pub(crate) mod protocol;
