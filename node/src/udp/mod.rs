//! The data socket: datagrams from and to other nodes.
