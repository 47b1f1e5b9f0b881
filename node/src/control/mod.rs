//! The local socket between a command and the running node.
