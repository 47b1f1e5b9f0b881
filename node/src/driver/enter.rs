//! Founding, inviting, joining: what happens on disk and on this machine around the engine's part.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use protocol::alias::preferred_prefix;
use protocol::engine::{Command, Engine, InviteRequest, JoinFailure, Time};
use protocol::identity::{Secret, SigningSecret, StaticSecret, VpiId};
use protocol::membership::admin::AdminError;
use protocol::membership::epoch::EpochSecret;
use protocol::membership::founding::{Founding, InviteWish, found};
use protocol::membership::join::{Joiner, Question};
use protocol::membership::object::{self, MAX_VPI_NAME, Object};
use protocol::membership::token::Token;
use zeroize::Zeroizing;

use super::node::Node;
use super::time;
use super::vpi::{Files, Vpi};
use crate::control::protocol::{Create, Entered, Hidden, Invite, Invited, Join, Plan, Reply};
use crate::control::server::Call;
use crate::control::{self, Exit, Failure};
use crate::loopback::{self, DEVICE_PREFIX};
use crate::store::keys::EpochName;
use crate::store::pending::Joining;
use crate::store::reach::{Exposure, Policy};
use crate::store::settings::VpiSettings;
use crate::swarm::Beacon;
use crate::udp::{self, Socket, UdpError};

/// The port that a VPI takes when it is free and nobody asked for another.
const USUAL_PORT: u16 = 41_414;
/// How long `vpi join` asks before it gives up.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// The pause between two lines for the person who waits.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Addresses of this device in a token (specified: protocol/README §12).
const TOKEN_ADDRESSES: usize = 4;

/// A `vpi join` that waits for an answer.
pub(super) struct PendingJoin {
    call: Call,
    members: Vec<SocketAddr>,
    beacons: usize,
    give_up_at: Instant,
    tell_at: Instant,
}

impl PendingJoin {
    /// Where members are asked, for a person.
    fn asked(&self) -> String {
        let addresses = self.members.iter().map(ToString::to_string);
        let lobby = (self.beacons > 0).then(|| format!("what {} beacons know", self.beacons));
        addresses.chain(lobby).collect::<Vec<_>>().join(", ")
    }

    /// When something is to be done about it.
    pub(super) fn due_at(&self) -> Instant {
        self.give_up_at.min(self.tell_at)
    }
}

impl Node {
    /// Founds a VPI; everything is on disk when this returns. One that was founded before by this name and whose recovery
    /// phrase nobody has seen is told again instead.
    pub(super) async fn create(&mut self, call: &Call, create: Create) -> anyhow::Result<Reply> {
        if let Some(founded) = self.unseen(&create.name)? {
            call.answer(Reply::Progress(format!(
                "{} was founded before; its recovery phrase was not shown then",
                create.name
            )));
            return Ok(founded);
        }
        check_beacons(&create.beacons)?;
        let time = time();
        let keys = self.state.keys();
        let (device, root) = (keys.device()?, SigningSecret::from_seed(&*draw()?));
        let recovery_seed = draw()?;
        let static_secret = StaticSecret::from_bytes(*draw()?);
        let secret = Secret(*draw()?);
        let founded = found(&Founding {
            name: &create.name,
            device_name: &create.member_name,
            root: &root,
            recovery: &SigningSecret::from_seed(&recovery_seed),
            device: &device,
            static_key: static_secret.public(),
            secret: &secret,
            nonce: draw()?[..16].try_into().context("half of 32 bytes is 16")?,
            wall_secs: time.wall_ms / 1_000,
        })?;
        let socket = bind(create.port)?;
        let settings = self.place(founded.vpi, &create.name, socket.local_port()).await?;
        let settings = VpiSettings {
            endpoints: create.endpoints,
            beacons: create.beacons,
            member: create.member_name,
            ..settings
        };
        let epoch = EpochSecret::new(founded.vpi, 0, secret);
        let mut files = Files::open(&self.state, founded.vpi, time)?;
        keys.put_static(&founded.vpi, 0, &static_secret)?;
        keys.put_root(&founded.vpi, &root)?;
        // Until the command says that it was shown: whoever is killed now has not lost it.
        keys.put_recovery(&founded.vpi, &recovery_seed)?;
        keys.put_epoch(&founded.vpi, EpochName { number: 0, tag: epoch.tag() }, epoch.secret())?;
        let records: Vec<&[u8]> = founded.objects.iter().map(|object| &**object.bytes()).collect();
        files.log.append(&records)?;
        files.objects = founded.objects.to_vec();

        let config = self.config(&settings, Vec::new(), Some(static_secret))?;
        let engine = Engine::member(config, founded.objects, [epoch], time)?;
        let settings = VpiSettings { alias: engine.own_alias(), ..settings };
        let mut vpi = Vpi::start(settings, engine, files, Arc::new(socket), self.queues.clone())?;
        vpi.check_floor()?;
        self.settle(founded.vpi, vpi, Some(Hidden(data_encoding::HEXLOWER.encode(&*recovery_seed))))
    }

    /// What `create` answered when nobody could be shown the recovery phrase.
    fn unseen(&self, name: &str) -> anyhow::Result<Option<Reply>> {
        let Some((id, vpi)) = self.entered().find(|(_, vpi)| vpi.settings.name == name) else {
            return Ok(None);
        };
        let key = self.state.keys().recovery(id)?;
        let key = key.map(|key| Hidden(data_encoding::HEXLOWER.encode(&key.0)));
        Ok(key.map(|key| Reply::Entered(entered(&vpi.settings, Some(key)))))
    }

    /// Makes a VPI whose every other file is on disk one that is opened at each start.
    fn settle(&mut self, id: VpiId, vpi: Vpi, recovery: Option<Hidden>) -> anyhow::Result<Reply> {
        vpi.settings.save(&self.state.vpi(&id)?.settings)?;
        let entered = entered(&vpi.settings, recovery);
        self.vpis.insert(id, vpi);
        Ok(Reply::Entered(entered))
    }

    /// Chooses this machine's names and numbers for a VPI; nothing is written yet.
    async fn place(&self, id: VpiId, charter_name: &str, port: u16) -> anyhow::Result<VpiSettings> {
        let taken: Vec<Ipv4Addr> = self.vpis.values().map(|vpi| vpi.settings.prefix).collect();
        let prefix = loopback::choose(preferred_prefix(&id), &taken).await?;
        let name = self.local_name(charter_name);
        Ok(VpiSettings {
            device: format!("{DEVICE_PREFIX}{name}"),
            name,
            id,
            prefix,
            alias: prefix,
            port,
            endpoints: Vec::new(),
            beacons: Vec::new(),
            member: String::new(),
            policy: Policy::default(),
            exposures: Vec::new(),
        })
    }

    /// The name of a VPI here: its own, or `home-2` where another has it.
    fn local_name(&self, name: &str) -> String {
        let is_free = |name: &String| self.vpis.values().all(|vpi| vpi.settings.name != *name);
        let numbered = (2..).map(|number| {
            let suffix = format!("-{number}");
            let kept: String = name.chars().take(MAX_VPI_NAME - suffix.len()).collect();
            kept + &suffix
        });
        std::iter::once(name.to_owned()).chain(numbered).find(is_free).expect("some number is free")
    }

    /// Starts to join; the answer follows when a member has answered.
    ///
    /// # Errors
    /// Whatever makes asking pointless.
    pub(super) async fn join(&mut self, call: &Call, join: &Join) -> anyhow::Result<Option<Reply>> {
        let time = time();
        let token = Token::parse(&join.token.0).map_err(|error| {
            Failure::new(Exit::Refused, error.to_string(), "ask for a new token if it was damaged")
        })?;
        let id = *token.vpi();
        if let Some(former) = self.joins.remove(&id) {
            former.call.fail(
                Exit::Failed,
                "another `vpi join` of the same VPI was started",
                "see how that one ends",
            );
            self.vpis.remove(&id);
        }
        if let Some(vpi) = self.vpis.get(&id) {
            self.check_belongs(id, vpi)?;
            call.answer(Reply::Progress(format!("this device is a member of {} already", vpi.settings.name)));
            return Ok(Some(Reply::Entered(entered(&vpi.settings, None))));
        }
        let (question, static_secret) = self.question(&token, join, time)?;
        if token.members().is_empty() && token.beacons().is_empty() {
            let advice = "ask for a token made with an --endpoint, from a member with an address, or of a VPI with beacons";
            return Err(Failure::new(
                Exit::Unreachable,
                "the token names no address of a member and no beacon",
                advice,
            )
            .into());
        }
        let socket = bind(join.port)?;
        let settings = self.place(id, "joining", socket.local_port()).await?;
        let member = question.bodies().0.name.clone();
        let (endpoints, beacons) = (join.endpoints.clone(), token.beacons().to_vec());
        let settings = VpiSettings { endpoints, beacons, member, ..settings };
        let mut files = Files::open(&self.state, id, time)?;
        let pins = std::mem::take(&mut files.pins);
        let config = self.config(&settings, pins, Some(static_secret))?;
        let engine = Engine::joining(config, &token, question, time)?;
        let vpi = Vpi::start(settings, engine, files, Arc::new(socket), self.queues.clone())?;
        self.vpis.insert(id, vpi);
        let members = token.members().to_vec();
        let call = call.clone();
        let (give_up_at, tell_at) = (time.now + JOIN_WITHIN, time.now);
        let beacons = token.beacons().len();
        self.joins.insert(id, PendingJoin { call, members, beacons, give_up_at, tell_at });
        Ok(None)
    }

    /// A device that was removed is told so, as far as it can know: nobody answers it.
    fn check_belongs(&self, id: VpiId, vpi: &Vpi) -> Result<(), Failure> {
        let name = &vpi.settings.name;
        let message = match vpi.engine.told_removed_by() {
            _ if vpi.engine.is_removed() => format!("this device was removed from {name}"),
            Some(member) => {
                format!("{} says that this device was removed from {name}", self.label(&id, &member))
            }
            None => return Ok(()),
        };
        let advice =
            format!("its key cannot join again; `vpi leave {name}`, then join: it has another key then");
        Err(Failure::new(Exit::Refused, message, advice))
    }

    /// The question to ask: the one that was asked before with this invite, else a new one, on disk.
    fn question(&self, token: &Token, join: &Join, time: Time) -> anyhow::Result<(Question, StaticSecret)> {
        let (keys, id, wall_secs) = (self.state.keys(), *token.vpi(), time.wall_ms / 1_000);
        let invite = token.invite();
        // A device that comes back has no key there until the invite was looked at.
        let device = if self.state.has_left(&id) { None } else { Some(keys.device_in(&id)?) };
        check_bound(invite, device.as_ref(), &keys.device()?)?;
        let device = match device {
            Some(device) => device,
            None if wall_secs > invite.not_after => return Err(refusal(JoinFailure::Expired)),
            None => {
                self.state.come_back(&id)?;
                keys.device_in(&id)?
            }
        };
        let known = keys.statics(&id)?.into_iter().max_by_key(|(counter, _)| *counter);
        let static_secret = match known {
            Some((_, secret)) => secret,
            None => {
                let secret = StaticSecret::from_bytes(*draw()?);
                keys.put_static(&id, 0, &secret)?;
                secret
            }
        };
        let former = keys.joining(&id)?.and_then(|former| Object::open(&id, &former.join).ok());
        let former = former.and_then(|object| Question::new(object, token.invite_object().clone()));
        if let Some(question) = former.filter(|question| question.bodies().0.invite_id == invite.invite_id) {
            return Ok((question, static_secret));
        }
        // A join that was asked in time goes on; a new one does not begin late, whatever grace a witness would give.
        if wall_secs > invite.not_after {
            return Err(refusal(JoinFailure::Expired));
        }
        let joiner = Joiner {
            device: &device,
            static_key: static_secret.public(),
            name: invite.name.as_deref().unwrap_or(&join.member_name),
            nonce: draw()?[..16].try_into().context("half of 32 bytes is 16")?,
            wall_secs,
        };
        let question = Question::ask(token, &joiner)?;
        let join = question.join_object().bytes().to_vec();
        keys.put_joining(&id, &Joining { token: token.to_text().to_string(), join })?;
        Ok((question, static_secret))
    }

    /// The engine says that this device is a member: from now on it is one at each start.
    pub(super) fn on_joined(&mut self, id: VpiId) -> anyhow::Result<()> {
        let Some(mut vpi) = self.vpis.remove(&id) else { return Ok(()) };
        let status = vpi.engine.status(Instant::now());
        let name = self.local_name(status.name.as_deref().unwrap_or("vpi"));
        vpi.settings.device = format!("{DEVICE_PREFIX}{name}");
        vpi.settings.name = name;
        vpi.settings.alias = vpi.engine.own_alias();
        let reply = self.settle(id, vpi, None)?;
        self.state.keys().remove_joining(&id)?;
        if let Some(pending) = self.joins.remove(&id) {
            pending.call.answer(reply);
        }
        Ok(())
    }

    /// The engine says that this device cannot become a member with its invite.
    pub(super) fn on_join_failed(&mut self, id: VpiId, failure: JoinFailure) -> anyhow::Result<()> {
        self.vpis.remove(&id);
        if failure != JoinFailure::Expired {
            self.state.keys().remove_joining(&id)?;
        }
        if let Some(pending) = self.joins.remove(&id) {
            answer_error(&pending.call, &refusal(failure));
        }
        Ok(())
    }

    /// Tells those who wait for a join how it stands; gives up what took too long.
    pub(super) fn joins_due(&mut self, time: Time) {
        let mut ended = Vec::new();
        for (id, pending) in &mut self.joins {
            let asked = pending.asked();
            if time.now >= pending.give_up_at {
                let message = format!("no member answered at {asked}");
                let advice = "see that one of them runs and that this device can reach it, then run the same join again";
                pending.call.fail(Exit::Unreachable, message, advice);
                ended.push(*id);
            } else if time.now >= pending.tell_at {
                pending.tell_at = time.now + TELL_EVERY;
                if !pending.call.answer(Reply::Progress(format!("asking at {asked} …"))) {
                    ended.push(*id);
                }
            }
        }
        for id in ended {
            self.joins.remove(&id);
            self.vpis.remove(&id);
        }
    }

    /// Starts to make an invite; the answer follows when it is on disk.
    pub(super) async fn invite(&mut self, call: &Call, invite: &Invite) -> anyhow::Result<()> {
        let id = self.resolve_vpi(&invite.vpi)?;
        let ticket = self.ticket();
        let found = udp::interface_addresses().await.context("cannot read this machine's addresses")?;
        let vpi = self.vpis.get_mut(&id).context("a VPI that was just found is there")?;
        let mut members = vpi.settings.endpoints.clone();
        let (v4, v6): (Vec<_>, Vec<_>) = found.into_iter().partition(std::net::IpAddr::is_ipv4);
        let own = v4.into_iter().chain(v6).map(|address| SocketAddr::new(address, vpi.settings.port));
        members.extend(vpi.engine.mapped());
        members.extend(own);
        members.truncate(TOKEN_ADDRESSES);
        let beacons = vpi.way.beacons();
        if members.is_empty() && beacons.is_empty() {
            let message = "this machine has no address at which a joiner could ask, and knows no beacon";
            return Err(Failure::new(Exit::Failed, message, "connect it to a network, then try again").into());
        }
        let wish = InviteWish {
            name: invite.name.clone(),
            max_uses: invite.uses.into(),
            seconds: Some(invite.expires_s.into()),
            bound_device: invite.device,
        };
        vpi.engine.handle_command(
            Command::Invite(
                ticket,
                Box::new(InviteRequest { wish, members, beacons, offline: invite.offline }),
            ),
            time(),
        );
        self.invites.insert(ticket, call.clone());
        Ok(())
    }
}

/// Beacons that a person names must be some.
fn check_beacons(beacons: &[String]) -> Result<(), Failure> {
    for text in beacons {
        if let Err(error) = text.parse::<Beacon>() {
            return Err(Failure::new(Exit::Usage, format!("--beacon {text}"), error.to_string()));
        }
    }
    Ok(())
}

/// Answers whoever asked for an invite.
pub(super) fn answer_invite(call: &Call, outcome: Result<Box<Token>, AdminError>) {
    match outcome {
        Ok(token) => {
            let invite = token.invite();
            call.answer(Reply::Invited(Invited {
                token: Hidden(token.to_text().to_string()),
                invite: invite.invite_id.to_string(),
                expires: control::status::Time::from_unix(invite.not_after),
                uses: u16::try_from(invite.max_uses).unwrap_or(u16::MAX),
            }));
        }
        Err(error) => call.fail(Exit::Refused, error.to_string(), ""),
    }
}

/// Answers with whatever went wrong: as it stands if it was meant for people, else as a failure of the node.
pub(super) fn answer_error(call: &Call, error: &anyhow::Error) {
    match error.downcast_ref::<Failure>() {
        Some(failure) => call.fail(failure.exit, failure.message.clone(), failure.advice.clone()),
        None => call.fail(Exit::Failed, control::sentence(error), ""),
    }
}

/// Whether `device`, which has no key yet if it left the VPI, may use the invite; `usual` is the node's own key.
fn check_bound(
    invite: &object::Invite,
    device: Option<&SigningSecret>,
    usual: &SigningSecret,
) -> Result<(), Failure> {
    let Some(bound) = invite.bound_device else { return Ok(()) };
    if device.is_some_and(|device| device.public() == bound) {
        return Ok(());
    }
    let (message, advice) = if bound == usual.public() {
        (
            "the invite is bound to the key with which this device left that VPI, and which cannot come back",
            "ask for one that is bound to no device (vpi invite without --device)",
        )
    } else {
        ("the invite is bound to another device", "ask for one made for this device (vpi invite --device)")
    };
    Err(Failure::new(Exit::Refused, message, advice))
}

fn refusal(failure: JoinFailure) -> anyhow::Error {
    let advice = "ask an admin for a new token: vpi invite";
    Failure::new(Exit::Refused, failure.to_string(), advice).into()
}

fn entered(settings: &VpiSettings, recovery: Option<Hidden>) -> Entered {
    Entered { name: settings.name.clone(), id: settings.id, recovery, plan: plan(settings) }
}

/// What a VPI has on this machine.
pub(super) fn plan(settings: &VpiSettings) -> Plan {
    let exposed = settings.exposures.iter().map(Exposure::service).collect();
    Plan { device: settings.device.clone(), prefix: settings.prefix, own: settings.alias, exposed }
}

/// The port that was asked for; else the usual one, or any that is free.
fn bind(port: Option<u16>) -> Result<Socket, UdpError> {
    match port {
        Some(port) => Socket::bind(port),
        None => match Socket::bind(USUAL_PORT) {
            Err(UdpError::PortTaken(_)) => Socket::bind(0),
            bound => bound,
        },
    }
}

/// Thirty-two random bytes of the system's.
pub(super) fn draw() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).context("the system gives no randomness")?;
    Ok(bytes)
}
