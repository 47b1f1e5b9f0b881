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
/// Nor is the line before a chunk: it has a size, and extensions that nobody uses.
const MAX_LINE_BYTES: usize = 128;
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
    let mut answer = Answer::default();
    let exchange = async {
        let mut stream = TcpStream::connect(*at).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut bounded = stream.take(MAX_ANSWER_BYTES);
        let mut part = [0; 4_096];
        // Some devices keep the connection open whatever they are asked.
        while !answer.is_whole() {
            match bounded.read(&mut part).await? {
                0 => break,
                length => answer.push(part.get(..length).unwrap_or_default()),
            }
        }
        io::Result::Ok(())
    };
    // Nor do they all say how long an answer is: what came until the end of the time is looked at.
    let ended = timeout(ANSWER_WITHIN, exchange).await.map_err(io::Error::other).flatten();
    read(&answer.bytes).ok_or_else(|| ended.err().unwrap_or_else(|| io::Error::other("no HTTP")))
}

/// An answer that comes in parts, of which none is looked at twice.
#[derive(Default)]
struct Answer {
    bytes: Vec<u8>,
    body: Option<Body>,
}

/// Where a body is over.
enum Body {
    /// Here.
    Ends(usize),
    /// Behind a last chunk; the next begins here.
    Chunked(usize),
    /// Where the connection is.
    Open,
}

impl Answer {
    fn push(&mut self, part: &[u8]) {
        let looked_at = self.bytes.len().saturating_sub(3);
        self.bytes.extend_from_slice(part);
        if self.body.is_some() {
            return;
        }
        let fresh = self.bytes.get(looked_at..).unwrap_or_default();
        let Some(end) = fresh.windows(4).position(|window| window == b"\r\n\r\n") else { return };
        let begin = looked_at + end + 4;
        let head = String::from_utf8_lossy(self.bytes.get(..begin).unwrap_or_default());
        let length = field(&head, "content-length").and_then(|length| length.parse().ok());
        self.body = Some(match (field(&head, "transfer-encoding"), length) {
            (Some(_), _) => Body::Chunked(begin),
            (None, Some(length)) => Body::Ends(begin.saturating_add(length)),
            (None, None) => Body::Open,
        });
    }

    /// Says whether it is as long as it says that it is.
    fn is_whole(&mut self) -> bool {
        match &mut self.body {
            None | Some(Body::Open) => false,
            Some(Body::Ends(end)) => self.bytes.len() >= *end,
            Some(Body::Chunked(next)) => loop {
                let rest = self.bytes.get(*next..).unwrap_or_default();
                match chunk_size(rest) {
                    // Behind it there may be more fields, and there is an empty line.
                    Some((0, _)) => break self.bytes.ends_with(b"\r\n\r\n"),
                    Some((size, line)) => *next = next.saturating_add(line).saturating_add(size + 2),
                    None => break false,
                }
            },
        }
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
        let (size, line) = chunk_size(rest)?;
        if size == 0 {
            return Some(body);
        }
        let (chunk, tail) = rest.get(line..)?.split_at_checked(size)?;
        body.extend_from_slice(chunk);
        rest = tail.get(2..)?;
    }
}

/// The size of the chunk that begins here, and the length of the line that says so.
fn chunk_size(rest: &[u8]) -> Option<(usize, usize)> {
    let line = rest.get(..rest.len().min(MAX_LINE_BYTES))?;
    let end = line.windows(2).position(|window| window == b"\r\n")?;
    let size = std::str::from_utf8(line.get(..end)?).ok()?.split(';').next()?.trim();
    let size = usize::from_str_radix(size, 16).ok().filter(|size| *size as u64 <= MAX_ANSWER_BYTES)?;
    Some((size, end + 2))
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

    fn is_whole<'a>(parts: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut answer = Answer::default();
        for part in parts {
            assert!(!answer.is_whole());
            answer.push(part);
        }
        answer.is_whole()
    }

    #[test]
    fn an_answer_that_comes_byte_by_byte_is_read_in_no_time() {
        let forms = ["", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"];
        for form in forms {
            let since = std::time::Instant::now();
            let long = [form.as_bytes(), &[b'1'; MAX_ANSWER_BYTES as usize]].concat();
            assert!(!is_whole(long.chunks(1)));
            assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
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
        let trailers = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n";
        assert_eq!(read(trailers), Some((200, "x".to_owned())));
        for whole in [&plain[..], &chunked, trailers] {
            assert!(is_whole(whole.chunks(whole.len())) && is_whole(whole.chunks(1)));
            assert!((0..whole.len()).all(|length| !is_whole(whole[..length].chunks(1))));
        }
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\nbody".chunks(1)), "it may go on");
        for none in ["", "HTTP/1.1 200 OK\r\n", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(read(none.as_bytes()), None, "{none}");
        }
        let cut = &chunked[..chunked.len() - 8];
        assert_eq!(read(cut), None);
    }
}
