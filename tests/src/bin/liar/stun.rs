//! A STUN responder (RFC 8489) that lies.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use clap::ValueEnum;
use tokio::net::UdpSocket;

/// The address that is told; nobody is there.
const NOBODY: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 18, 0, 9), 9);
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// The longest request, and the first of a huge answer's attributes, which one may pass over.
const REQUEST_BYTES: usize = 512;
const HUGE_BYTES: u16 = 60_000;
const SOFTWARE: [u8; 2] = [0x80, 0x22];

/// How it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stun {
    /// A right answer with the address of somebody else.
    Wrong,
    /// The same behind 60,000 bytes of another attribute.
    Huge,
    /// The same from another port than was asked.
    Elsewhere,
}

/// Answers for ever, at a port of `ip` that is returned at once; prints a line for each lie.
pub(crate) async fn start(ip: IpAddr, way: Stun) -> Result<u16> {
    let (asked, other) = (UdpSocket::bind((ip, 0)).await?, UdpSocket::bind((ip, 0)).await?);
    let port = asked.local_addr()?.port();
    tokio::spawn(async move {
        let mut request = [0; REQUEST_BYTES];
        while let Ok((length, from)) = asked.recv_from(&mut request).await {
            let Some(answer) = request.get(..length).and_then(|request| answer(request, way)) else {
                continue;
            };
            let socket = if way == Stun::Elsewhere { &other } else { &asked };
            // Who is gone hears no lie.
            if socket.send_to(&answer, from).await.is_ok() {
                println!("lied about an address");
            }
        }
    });
    Ok(port)
}

/// The answer to a binding request; `None` to anything else.
fn answer(request: &[u8], way: Stun) -> Option<Vec<u8>> {
    let (head, transaction) = (request.get(..4)?, request.get(4..20)?);
    if head.get(..2)? != [0, 1] || transaction.get(..4)? != COOKIE {
        return None;
    }
    let (ip, port) = NOBODY;
    let masked: Vec<u8> = ip.octets().iter().zip(COOKIE).map(|(byte, mask)| byte ^ mask).collect();
    let address = [&[0, 0x20, 0, 8, 0, 1][..], &(port ^ 0x2112).to_be_bytes(), &masked].concat();
    let attributes = match way {
        Stun::Wrong | Stun::Elsewhere => address,
        Stun::Huge => {
            let padding = vec![b'x'; usize::from(HUGE_BYTES)];
            [&SOFTWARE[..], &HUGE_BYTES.to_be_bytes(), &padding, &address].concat()
        }
    };
    let length = u16::try_from(attributes.len()).ok()?;
    Some([&[1, 1][..], &length.to_be_bytes(), transaction, &attributes].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_request_gets_a_lie_and_nothing_else_gets_anything() {
        let request = [&[0, 1, 0, 0][..], &COOKIE, &[7; 12]].concat();
        let wrong = answer(&request, Stun::Wrong).unwrap();
        let expected = [&[1, 1, 0, 12][..], &COOKIE, &[7; 12], &[0, 0x20, 0, 8, 0, 1, 0x21, 0x1b]].concat();
        assert_eq!(wrong, [&expected[..], &[198 ^ 0x21, 18 ^ 0x12, 0xa4, 9 ^ 0x42]].concat());
        assert_eq!(answer(&request, Stun::Huge).unwrap().len(), 20 + 4 + 60_000 + 12);
        assert_eq!(answer(&request[..19], Stun::Wrong), None);
        assert_eq!(answer(&[&[1, 1][..], &request[2..]].concat(), Stun::Wrong), None);
    }
}
