//! Words for what happened.

use protocol::engine::Event;

/// One event, in a few words; secrets and random bytes that a reader does not need stay out.
pub(crate) fn event(event: &Event) -> String {
    match event {
        Event::Store { ticket, objects, epochs } => {
            let kinds: Vec<_> = objects.iter().map(|object| format!("{:?}", object.kind())).collect();
            format!("store {ticket}: {kinds:?} and {} secrets", epochs.len())
        }
        Event::EpochEnded { number, .. } => format!("a secret of epoch {number} ended"),
        Event::Pinned => "pinned".to_owned(),
        Event::Joined => "joined".to_owned(),
        Event::JoinFailed(failure) => format!("join failed: {failure}"),
        Event::Invited { ticket, outcome } => format!("invited {ticket}, done: {}", outcome.is_ok()),
        Event::Signed { ticket, outcome } => format!("signed {ticket}: {outcome:?}"),
        Event::Left { ticket, outcome } => format!("left {ticket}: {outcome:?}"),
        Event::Removed => "removed".to_owned(),
        Event::Presence(object) => format!("presence {:?}", object.id()),
        Event::Reached { device, remote } => format!("reached {device:?} at {remote}"),
        Event::Link { device, is_up } => format!("link with {device:?} up: {is_up}"),
        Event::Pong { ticket, rtt } => format!("pong {ticket} after {rtt:?}"),
        Event::Announce(datagram) => format!("announce, {} bytes", datagram.len()),
        Event::MapPort(ask) => {
            format!("ask the gateway at {} for a port by {:?}", ask.gateway.address, ask.way)
        }
        Event::Lookup { key } => format!("look up {:02x?}", &key[..4]),
        Event::Publish { key, value, .. } => format!("publish {:02x?}, {} bytes", &key[..4], value.len()),
        Event::Carry { number, is_offer, .. } => format!("carry {number:08x}, first: {is_offer}"),
        Event::CloseCarry(number) => format!("close stream {number:08x}"),
        Event::OpenCircuit { circuit, .. } => format!("open circuit {circuit:08x}"),
        Event::Socket { number, is_open } => format!("socket {number} open: {is_open}"),
        Event::Burst { is_running } => format!("burst runs: {is_running}"),
        Event::Dropped(reason) => format!("dropped: {reason}"),
    }
}
