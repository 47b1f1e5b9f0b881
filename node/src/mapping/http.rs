//! As much of HTTP/1.1 (RFC 9112) as a gateway's device speaks: one request, one answer of bounded length, and the connection
//! ends.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer of a gateway is not longer (chosen: descriptions have 2 to 30 KB).
const MAX_ANSWER_BYTES: u64 = 128 << 10;
/// It has this long for all of it (chosen: a busy home router's slowest).
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A place at a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) at: SocketAddrV4,
    /// With its slash.
    pub(super) path: String,
}

impl Url {
    /// Reads `http://HOST[:PORT][/PATH]`, whose host must be `gateway`: nobody else is asked, whoever says so.
    pub(super) fn read(text: &str, gateway: Ipv4Addr) -> Option<Self> {
        let (scheme, rest) = text.trim().split_at_checked("http://".len())?;
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = place.split_once(':').unwrap_or((place, "80"));
        let at = SocketAddrV4::new(host.parse().ok()?, port.parse().ok()?);
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        let is_taken = scheme.eq_ignore_ascii_case("http://") && is_plain && *at.ip() == gateway;
        is_taken.then(|| Self { at, path: format!("/{path}") })
    }

    /// Reads a whole URL, or a path here.
    pub(super) fn join(&self, text: &str) -> Option<Self> {
        let text = text.trim();
        if text.contains("://") {
            return Self::read(text, *self.at.ip());
        }
        let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let path = format!("/{}", text.strip_prefix('/').unwrap_or(text));
        is_plain.then_some(Self { at: self.at, path })
    }
}

/// Gets what is at `url`.
///
/// # Errors
/// Whatever keeps it from an answer with a status.
pub(super) async fn get(url: &Url) -> io::Result<(u16, String)> {
    exchange(url, "GET", "", "").await
}

/// Posts `body`, with more lines for the head, to `url`.
///
/// # Errors
/// As [`get`].
pub(super) async fn post(url: &Url, head: &str, body: &str) -> io::Result<(u16, String)> {
    exchange(url, "POST", &format!("{head}Content-Length: {}\r\n", body.len()), body).await
}

async fn exchange(url: &Url, method: &str, head: &str, body: &str) -> io::Result<(u16, String)> {
    let Url { at, path } = url;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{head}\r\n{body}");
    let answer = async {
        let mut stream = TcpStream::connect(*at).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut bounded = stream.take(MAX_ANSWER_BYTES);
        let mut part = [0; 4_096];
        // Some devices keep the connection open whatever they are asked.
        while !is_whole(&answer) {
            match bounded.read(&mut part).await? {
                0 => break,
                length => answer.extend_from_slice(part.get(..length).unwrap_or_default()),
            }
        }
        io::Result::Ok(answer)
    };
    let answer = timeout(ANSWER_WITHIN, answer).await.map_err(io::Error::other)??;
    read(&answer).ok_or_else(|| io::Error::other("no HTTP"))
}

/// Says whether an answer is as long as it says that it is.
fn is_whole(answer: &[u8]) -> bool {
    let Some((head, body)) = split(answer) else { return false };
    match (field(&head, "transfer-encoding"), field(&head, "content-length")) {
        (Some(_), _) => body.ends_with(b"0\r\n\r\n"),
        (None, Some(length)) => length.parse().is_ok_and(|length: usize| body.len() >= length),
        (None, None) => false,
    }
}

/// The status of an answer, and its body.
fn read(answer: &[u8]) -> Option<(u16, String)> {
    let (head, body) = split(answer)?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim().parse().ok()?;
    let is_chunked = field(&head, "transfer-encoding").is_some_and(|how| how.eq_ignore_ascii_case("chunked"));
    let body = if is_chunked { unchunked(body)? } else { body.to_vec() };
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

fn split(answer: &[u8]) -> Option<(String, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end + 4)?;
    Some((String::from_utf8_lossy(head).into_owned(), body))
}

/// What a head says under this name.
pub(super) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then(|| value.trim()))
}

/// RFC 9112 §7.1.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let (size, tail) = rest.split_at_checked(end)?;
        let size = std::str::from_utf8(size).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        let (chunk, tail) = tail.get(2..)?.split_at_checked(size)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunk);
        rest = tail.get(2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    #[test]
    fn only_the_gateway_is_asked() {
        let url = Url::read("HTTP://192.168.1.1:5000/rootDesc.xml", GATEWAY).unwrap();
        assert_eq!((url.at.port(), url.path.as_str()), (5_000, "/rootDesc.xml"));
        assert_eq!(Url::read("http://192.168.1.1", GATEWAY).unwrap().at.port(), 80);
        for other in [
            "http://192.168.1.9/x",
            "http://example.org/x",
            "https://192.168.1.1/x",
            "http://192.168.1.1:99999/x",
            "http://192.168.1.1/a b",
            "http://192.168.1.1/a\r\nb",
            "/x",
            "",
            "é",
        ] {
            assert_eq!(Url::read(other, GATEWAY), None, "{other}");
        }
        assert_eq!(url.join("/ctl").unwrap().path, "/ctl");
        assert_eq!(url.join("ctl").unwrap(), url.join("http://192.168.1.1:5000/ctl").unwrap());
        for other in ["http://192.168.1.9/ctl", "", "a\nb"] {
            assert_eq!(url.join(other), None, "{other}");
        }
    }

    #[test]
    fn answers_are_read_whole_in_either_form_and_whatever_is_none_is_not() {
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody".to_vec();
        let chunked =
            b"HTTP/1.0 500 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1;x\r\ny\r\n0\r\n\r\n"
                .to_vec();
        assert_eq!(read(&plain), Some((200, "body".to_owned())));
        assert_eq!(read(&chunked), Some((500, "body".to_owned())));
        for whole in [&plain, &chunked] {
            assert!(is_whole(whole));
            assert!((0..whole.len()).all(|length| !is_whole(&whole[..length])));
        }
        for none in ["", "HTTP/1.1 200 OK\r\n", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(read(none.as_bytes()), None, "{none}");
        }
        let cut = &chunked[..chunked.len() - 8];
        assert_eq!(read(cut), None);
    }
}
