//! Veiled datagrams: opened, told apart, handed to who answers. Data datagrams do not come here.

use super::handshake::Unveiled;
use super::joining::Joining;
use super::roster::EpochKeys;
use super::{Engine, Time};
use crate::drop::DropReason;
use crate::forward::Update;
use crate::gate;
use crate::path::Remote;
use crate::veil::{self, Veiled};
use crate::wire::header::{Class, VeilHeader};

impl Engine {
    pub(super) fn on_veiled(&mut self, from: Remote, datagram: &[u8], time: Time) -> Result<(), DropReason> {
        let (header, clear, sealed) = VeilHeader::split(datagram).ok_or(DropReason::Malformed)?;
        match header.class {
            Class::Member => {
                let keys: Vec<EpochKeys> = self.roster.keys_by_tag(header.epoch_tag).cloned().collect();
                if keys.is_empty() {
                    return Err(DropReason::UnknownEpoch);
                }
                let opened = keys
                    .iter()
                    .find_map(|keys| Some((keys, Veiled::open(&keys.veil, &header, clear, sealed)?)));
                let (keys, content) = opened.ok_or(DropReason::VeilForged)?;
                self.on_member_veil(from, &Unveiled { header, clear, keys, content }, time)
            }
            Class::Join(invite) if self.joining.is_some() => {
                self.on_join_answer(from, &header, (invite, clear, sealed), time)
            }
            Class::Join(invite) => self.on_join_question(from, &header, (invite, clear, sealed), time),
        }
    }

    /// The tags of veiled datagrams that this node may be able to open, if they are others than the forwarder knows: what
    /// has none of them is dropped there, before it costs more than two bytes' comparison.
    pub(super) fn poll_veils(&mut self) -> Option<Update> {
        let tags = || self.roster.tags().chain(self.joining.as_ref().map(Joining::epoch_tag));
        if tags().eq(self.out.told_tags.iter().copied()) {
            return None;
        }
        let tags: Vec<_> = tags().collect();
        self.out.told_tags.clone_from(&tags);
        Some(Update::Veils { tags })
    }

    fn on_member_veil(
        &mut self,
        source: Remote,
        unveiled: &Unveiled<'_>,
        time: Time,
    ) -> Result<(), DropReason> {
        let Veiled { time_ms, kind, .. } = unveiled.content;
        match kind {
            veil::INITIATION => {
                let question = gate::Question { nonce: unveiled.header.nonce, time_ms, source };
                self.on_initiation(&question, unveiled, time)
            }
            // A response is judged by its handshake alone, never by a clock.
            veil::RESPONSE => self.on_response(source, &unveiled.content, time),
            _ => Err(DropReason::VeilType),
        }
    }
}
