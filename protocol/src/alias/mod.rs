//! 127.x.y.z ↔ member.
