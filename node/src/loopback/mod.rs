//! Puts aliases, routes, guard and nftables on this machine, and takes them off.
