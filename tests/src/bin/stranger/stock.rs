//! A libp2p node with standard settings, whose Kademlia is called as that of beacons.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use libp2p::futures::StreamExt as _;
use libp2p::kad::store::MemoryStore;
use libp2p::kad::{self, GetRecordOk, QueryResult, Quorum};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use protocol::discovery::record::Record;
use serde_json::{Value, json};
use tokio::time::timeout;

/// How long each step may take.
const LIMIT: Duration = Duration::from_secs(15);

#[derive(NetworkBehaviour)]
struct Behaviour {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
}

/// A node that is connected.
pub(crate) struct Node {
    swarm: Swarm<Behaviour>,
    peers: Vec<PeerId>,
    infos: Vec<identify::Info>,
}

impl Node {
    /// Connects to all `addresses`, and waits until each has said who it is.
    pub(crate) async fn connect(addresses: &[Multiaddr]) -> Result<Self> {
        let built = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
            .with_quic()
            .with_behaviour(|keypair| {
                let id = keypair.public().to_peer_id();
                let config = kad::Config::new(StreamProtocol::new("/vpi/kad/1"));
                Behaviour {
                    kad: kad::Behaviour::with_config(id, MemoryStore::new(id), config),
                    identify: identify::Behaviour::new(identify::Config::new(
                        "stock/1".to_owned(),
                        keypair.public(),
                    )),
                }
            })?;
        let mut node = Self { swarm: built.build(), peers: Vec::new(), infos: Vec::new() };
        for address in addresses {
            let Some(Protocol::P2p(peer)) = address.iter().last() else { bail!("{address} names no peer") };
            node.peers.push(peer);
            node.swarm.dial(address.clone())?;
        }
        timeout(LIMIT, node.meet(addresses.len())).await.context("not all said who they are")??;
        Ok(node)
    }

    /// Waits until `count` have said who they are, and are in the table.
    async fn meet(&mut self, count: usize) -> Result<()> {
        let mut routed = 0;
        while self.infos.len() < count || routed < count {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::RoutingUpdated {
                    is_new_peer,
                    ..
                })) => {
                    routed += usize::from(is_new_peer);
                }
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    info, ..
                })) => {
                    self.infos.push(info);
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => bail!("not connected: {error}"),
                _ => {}
            }
        }
        Ok(())
    }

    /// What the first told of itself.
    pub(crate) fn identified(&self) -> Result<Value> {
        let info = self.infos.first().context("nobody said who it is")?;
        let texts = |list: &[Multiaddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let protocols: Vec<_> = info.protocols.iter().map(ToString::to_string).collect();
        Ok(
            json!({"protocols": protocols, "agent": info.agent_version, "addresses": texts(&info.listen_addrs)}),
        )
    }

    /// The peers closest to a random key.
    pub(crate) async fn closest(mut self) -> Result<Value> {
        self.swarm.behaviour_mut().kad.get_closest_peers(PeerId::random());
        let mut peers = Vec::new();
        self.query(|result| {
            if let QueryResult::GetClosestPeers(Ok(found)) = result {
                peers.extend(found.peers.into_iter().map(|peer| peer.peer_id.to_string()));
            }
        })
        .await?;
        Ok(json!({"peers": peers}))
    }

    /// Puts `record` to everybody it is connected to.
    pub(crate) async fn put(self, record: Record) -> Result<Value> {
        self.place(record.key.to_vec(), record.value).await
    }

    /// The same with whatever is given; that it was put does not say that it was taken.
    pub(crate) async fn place(mut self, key: Vec<u8>, value: Vec<u8>) -> Result<Value> {
        let mut put = kad::Record::new(key, value);
        put.publisher = None;
        let peers = self.peers.clone();
        self.swarm.behaviour_mut().kad.put_record_to(put, peers.into_iter(), Quorum::All);
        let mut is_done = false;
        self.query(|result| is_done |= matches!(result, QueryResult::PutRecord(Ok(_)))).await?;
        Ok(json!({"put": is_done}))
    }

    /// Fetches every distinct value under `key`, in hexadecimal.
    pub(crate) async fn fetch(mut self, key: Vec<u8>) -> Result<Value> {
        self.swarm.behaviour_mut().kad.get_record(key.into());
        let mut values = BTreeSet::new();
        self.query(|result| {
            if let QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) = result {
                values.insert(HEXLOWER.encode(&found.record.value));
            }
        })
        .await?;
        Ok(json!({"values": values}))
    }

    /// Fetches what is under the key of `record`.
    pub(crate) async fn get(mut self, record: &Record) -> Result<Value> {
        self.swarm.behaviour_mut().kad.get_record(record.key.to_vec().into());
        let (mut from, mut are_valid) = (Vec::new(), true);
        self.query(|result| {
            if let QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) = result {
                from.extend(found.peer.map(|peer| peer.to_string()));
                are_valid &= found.record.value.len() == record.value.len()
                    && found.record.value.get(..33) == record.value.get(..33)
                    && found.record.publisher.is_none();
            }
        })
        .await?;
        Ok(json!({"copies": from.len(), "from": from, "valid": are_valid}))
    }

    /// Hands the results of the query under way to `take`, until it ends.
    async fn query(&mut self, mut take: impl FnMut(QueryResult)) -> Result<()> {
        let wait = async {
            loop {
                if let SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                    result,
                    step,
                    ..
                })) = self.swarm.select_next_some().await
                    && !matches!(result, QueryResult::Bootstrap(_))
                {
                    take(result);
                    if step.last {
                        return;
                    }
                }
            }
        };
        timeout(LIMIT, wait).await.context("the query does not end")
    }
}
