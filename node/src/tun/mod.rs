//! The TUN device: packets from and to applications.
