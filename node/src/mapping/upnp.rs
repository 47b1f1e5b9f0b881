//! UPnP's internet gateway device (UPnP Device Architecture 1.1; WANIPConnection:1 and :2, WANPPPConnection:1).
//!
//! The gateway itself is asked where its device is; only where it does not answer, as older ones, everybody on the network is,
//! by multicast that no router passes on. Whatever others than the gateway say is not read.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use protocol::path::portmap::{Ask, Outcome, UPNP_CONFLICT, Way};
use protocol::wire::address::is_public;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::http::{self, Url, field};

/// *Specified* (UPnP Device Architecture 1.1 §1.3.2).
const SEARCH_PORT: u16 = 1_900;
const SEARCH_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SEARCHED: &str = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
/// A gateway asked by itself has this long (chosen: it is beside this machine), and one among all twice the second in which
/// devices answer by chance.
const ANSWER_WITHIN: [Duration; 2] = [Duration::from_millis(750), Duration::from_millis(2_000)];
/// The longest answer to a search.
const MAX_ANSWER_BYTES: usize = 2_048;
/// What may map a port, the best first.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// What a refusal says that names no number: the action failed (UPnP Device Architecture 1.1 §3.2.5).
const ACTION_FAILED: u16 = 501;

/// One service of the gateway's device.
#[derive(Clone, Debug)]
pub(super) struct Service {
    kind: &'static str,
    control: Url,
}

/// Asks by UPnP, a service that is known already if it answers. A gateway that maps for ever only is not asked to: nothing would
/// end what a killed node leaves.
pub(super) async fn map(ask: &Ask, known: Option<Service>) -> (Outcome, Option<Service>) {
    if let Some(service) = known
        && let Ok(outcome) = service.carry_out(ask).await
    {
        return (outcome, Some(service));
    }
    let (mut best, mut by) = (Outcome::Silent, None);
    for service in find(ask).await.unwrap_or_default() {
        let outcome = service.carry_out(ask).await.unwrap_or(Outcome::Silent);
        if weight(outcome) > weight(best) {
            by = matches!(outcome, Outcome::Mapped { .. }).then_some(service);
            best = outcome;
        }
        if weight(best) == BEST {
            break;
        }
    }
    (best, by)
}

const BEST: u8 = 4;

/// Which outcome counts where a device has several services, of which one that is not connected says nothing, or anything.
fn weight(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Mapped { outside, .. } if is_public((*outside.ip()).into()) => BEST,
        // Another port may be free.
        Outcome::Refused(UPNP_CONFLICT) => 3,
        Outcome::Mapped { .. } => 2,
        Outcome::Refused(_) => 1,
        Outcome::Silent => 0,
    }
}

/// Finds the gateway's services; `None` if it has none that says so.
async fn find(ask: &Ask) -> Option<Vec<Service>> {
    let place = search(ask).await.ok()??;
    let (status, description) = http::get(&place).await.ok()?;
    (status == 200).then(|| services(&description, &place))
}

impl Service {
    /// Says whether it is one of the gateway that is to be asked.
    pub(super) fn is_of(&self, ask: &Ask) -> bool {
        ask.way == Way::Upnp && *self.control.at.ip() == ask.gateway.address
    }

    async fn carry_out(&self, ask: &Ask) -> io::Result<Outcome> {
        match ask.is_release() {
            true => self.give_back(ask).await.map(|()| Outcome::Silent),
            false => self.map(ask).await,
        }
    }

    async fn map(&self, ask: &Ask) -> io::Result<Outcome> {
        // First: where that fails, nothing is mapped that nobody would know of.
        let said = match self.act("GetExternalIPAddress", "").await? {
            Ok(said) => said,
            Err(code) => return Ok(Outcome::Refused(code)),
        };
        let address: Option<Ipv4Addr> =
            element(&said, "NewExternalIPAddress").and_then(|address| address.trim().parse().ok());
        let Some(address) = address.filter(|address| !address.is_unspecified()) else {
            // It is not connected.
            return Ok(Outcome::Silent);
        };
        let outside = SocketAddrV4::new(address, ask.outside.port());
        let mapped = Outcome::Mapped { outside, lease: ask.lease };
        if !is_public(address.into()) {
            // Nobody would get in: it is behind another one.
            return Ok(mapped);
        }
        let wish = format!(
            "{}<NewInternalPort>{}</NewInternalPort><NewInternalClient>{}</NewInternalClient>\
             <NewEnabled>1</NewEnabled><NewPortMappingDescription>vpi</NewPortMappingDescription>\
             <NewLeaseDuration>{}</NewLeaseDuration>",
            name_of(ask),
            ask.port,
            ask.gateway.own,
            ask.lease.as_secs()
        );
        let added = self.act("AddPortMapping", &wish).await?;
        Ok(added.map_or_else(Outcome::Refused, |_| mapped))
    }

    /// Ends a mapping, if it is this device's: any gateway of the first version would end that of whoever has the port.
    async fn give_back(&self, ask: &Ask) -> io::Result<()> {
        let Ok(said) = self.act("GetSpecificPortMappingEntry", &name_of(ask)).await? else { return Ok(()) };
        let has = |name: &str, own: &str| element(&said, name).is_some_and(|found| found.trim() == own);
        let is_own = has("NewInternalClient", &ask.gateway.own.to_string())
            && has("NewInternalPort", &ask.port.to_string());
        if is_own {
            // Refused is gone, too.
            let _ = self.act("DeletePortMapping", &name_of(ask)).await?;
        }
        Ok(())
    }

    /// Has an action done; the answer, or the number of a refusal.
    async fn act(&self, action: &str, arguments: &str) -> io::Result<Result<String, u16>> {
        let kind = self.kind;
        let head =
            format!("Content-Type: text/xml; charset=\"utf-8\"\r\nSOAPAction: \"{kind}#{action}\"\r\n");
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{action} xmlns:u=\"{kind}\">{arguments}</u:{action}></s:Body></s:Envelope>\r\n"
        );
        let (status, said) = http::post(&self.control, &head, &body).await?;
        if status == 200 {
            return Ok(Ok(said));
        }
        let code = element(&said, "errorCode").and_then(|code| code.trim().parse().ok());
        Ok(Err(code.unwrap_or(ACTION_FAILED)))
    }
}

/// How a mapping is called in all actions.
fn name_of(ask: &Ask) -> String {
    let outside = ask.outside.port();
    format!(
        "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outside}</NewExternalPort>\
         <NewProtocol>UDP</NewProtocol>"
    )
}

/// Finds where the gateway's device is described.
async fn search(ask: &Ask) -> io::Result<Option<Url>> {
    let (own, gateway) = (ask.gateway.own, ask.gateway.address);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((own, 0)).into())?;
    socket.set_multicast_if_v4(&own)?;
    socket.set_multicast_ttl_v4(1)?;
    let socket = UdpSocket::from_std(socket.into())?;
    let question = format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: {SEARCH_GROUP}:{SEARCH_PORT}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {SEARCHED}\r\n\r\n"
    );
    let mut answer = [0; MAX_ANSWER_BYTES];
    for (to, within) in [gateway, SEARCH_GROUP].into_iter().zip(ANSWER_WITHIN) {
        let until = Instant::now() + within;
        socket.send_to(question.as_bytes(), (to, SEARCH_PORT)).await?;
        while let Ok(received) = timeout_at(until, socket.recv_from(&mut answer)).await {
            let (length, from) = received?;
            let said = String::from_utf8_lossy(answer.get(..length).unwrap_or_default());
            let place = field(&said, "location").and_then(|place| Url::read(place, gateway));
            if from.ip() == gateway && said.starts_with("HTTP/1.1 200") && place.is_some() {
                return Ok(place);
            }
        }
    }
    Ok(None)
}

/// The services of a description that may map a port, the best first, each once.
fn services(description: &str, place: &Url) -> Vec<Service> {
    let base = element(description, "URLBase").and_then(|base| place.join(base));
    let base = base.unwrap_or_else(|| place.clone());
    let service = |kind: &'static str| {
        let mut rest = description;
        while let Some((inside, behind)) = next_element(rest, "service") {
            if element(inside, "serviceType").is_some_and(|found| found.trim() == kind) {
                return Some(Service { kind, control: base.join(element(inside, "controlURL")?)? });
            }
            rest = behind;
        }
        None
    };
    SERVICES.into_iter().filter_map(service).collect()
}

/// What is inside the first element of this name, whatever its prefix and attributes.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    next_element(text, name).map(|(inside, _)| inside)
}

/// The same, and what stands behind it. Elements that hold others of their own name are not looked for.
fn next_element<'t>(text: &'t str, name: &str) -> Option<(&'t str, &'t str)> {
    let mut rest = text;
    loop {
        let (_, tag) = rest.split_once('<')?;
        let (tag, inside) = tag.split_once('>')?;
        rest = inside;
        if !is_called(tag, name) || tag.ends_with('/') {
            continue;
        }
        let mut looked_at = 0;
        loop {
            let ahead = inside.get(looked_at..)?;
            let end = looked_at + ahead.find("</")?;
            let tail = inside.get(end + 2..)?;
            let stop = tail.find(['<', '>'])?;
            let (closing, behind) = tail.split_at_checked(stop)?;
            // A name ends before another one begins: no page is read twice.
            if let Some(behind) = behind.strip_prefix('>').filter(|_| is_called(closing, name)) {
                return Some((inside.get(..end)?, behind));
            }
            looked_at = end + 2 + stop;
        }
    }
}

fn is_called(tag: &str, name: &str) -> bool {
    let called = tag.split([' ', '\t', '\r', '\n', '/']).next().unwrap_or_default();
    called.rsplit(':').next() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Url {
        Url::read("http://192.168.1.1:5000/igd/root.xml", Ipv4Addr::new(192, 168, 1, 1)).unwrap()
    }

    fn service(kind: &str, control: &str) -> String {
        format!(
            "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType>\n\
             <controlURL>{control}</controlURL></service>"
        )
    }

    #[test]
    fn services_that_map_are_found_the_best_first() {
        let text = [
            "<?xml version=\"1.0\"?><root xmlns=\"urn:x\"><device><serviceList>",
            &service("Layer3Forwarding:1", "/l3"),
            &service("WANPPPConnection:1", "ctl/ppp"),
            &service("WANIPConnection:1", "http://192.168.1.1:5000/ctl/ip"),
            &service("WANIPConnection:2", "http://192.168.1.77/ctl"),
            "</serviceList></device></root>",
        ];
        let found = services(&text.concat(), &place());
        let found: Vec<_> = found.iter().map(|one| (one.kind, one.control.path.as_str())).collect();
        assert_eq!(found, [(SERVICES[1], "/ctl/ip"), (SERVICES[2], "/ctl/ppp")]);
        let based = format!("<URLBase>http://192.168.1.1:99</URLBase>{}", service("WANIPConnection:1", "/c"));
        assert_eq!(services(&based, &place())[0].control.at.port(), 99);
    }

    #[test]
    fn elements_are_found_by_name_whatever_stands_around() {
        let text = "<s:Fault><m:a x=\"1\"/><errorCode>718</errorCode><b><c>d</c></b></s:Fault>";
        assert_eq!(element(text, "errorCode"), Some("718"));
        assert_eq!(element(text, "b"), Some("<c>d</c>"));
        assert_eq!(element(text, "Fault").map(str::len), Some(text.len() - 19));
        assert_eq!((element(text, "a"), element(text, "code"), element("<a>", "a")), (None, None, None));
        for length in 0..text.len() {
            let _ = element(&text[..length], "errorCode");
        }
    }

    #[test]
    fn a_page_of_names_that_do_not_end_is_read_in_no_time() {
        let page = format!("<service>{}>", "</".repeat(60_000));
        let since = std::time::Instant::now();
        assert!(services(&page, &place()).is_empty());
        assert!(since.elapsed() < Duration::from_millis(300), "{:?}", since.elapsed());
        assert_eq!(element("<a></b</a>", "a"), Some("</b"));
    }
}
