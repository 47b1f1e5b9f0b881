//! Whether a device passes datagrams on for others. In: what its owner says, its addresses. Out: yes or no.

use std::net::SocketAddr;

use crate::wire::address::is_public;

/// What the owner of a device says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consent {
    /// Nothing: a device with an IPv4 address of the internet does, its own or one that a NAT keeps for it. Such a device
    /// is mains-powered and on a line that is not paid by the byte more often than not; an IPv6 address says nothing of
    /// the kind.
    #[default]
    Auto,
    /// It does.
    Yes,
    /// It does not.
    No,
}

impl Consent {
    /// Says whether a device at these addresses does.
    #[must_use]
    pub fn given(self, addresses: &[SocketAddr]) -> bool {
        match self {
            Self::Auto => addresses.iter().any(|address| is_public(address.ip())),
            Self::Yes => true,
            Self::No => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(consent: Consent, addresses: &[&str]) -> bool {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        consent.given(&addresses)
    }

    #[test]
    fn by_default_who_has_an_address_of_the_internet_does() {
        for (address, is_public) in [
            ("11.0.1.2:1", true),
            ("192.168.1.2:1", false),
            ("10.0.0.1:1", false),
            ("172.20.0.1:1", false),
            ("100.64.0.1:1", false),
            ("100.128.0.1:1", true),
            ("169.254.1.1:1", false),
            ("127.0.0.1:1", false),
            ("0.1.2.3:1", false),
            ("[2001:db8::1]:1", false),
            ("[::ffff:11.0.1.2]:1", true),
        ] {
            assert_eq!(given(Consent::Auto, &["[fd00::1]:1", address]), is_public, "{address}");
        }
        assert!(!given(Consent::Auto, &[]));
    }

    #[test]
    fn the_owners_word_counts_whatever_the_addresses() {
        assert!(given(Consent::Yes, &[]) && given(Consent::Yes, &["10.0.0.1:1"]));
        assert!(!given(Consent::No, &["11.0.1.2:1"]));
    }
}
