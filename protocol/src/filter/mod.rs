//! What a member may reach.
