//! Who belongs, decided without a server.
