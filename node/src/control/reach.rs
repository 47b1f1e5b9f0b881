//! What members reach on this machine, as commands ask and the node answers. The answers are promised JSON.

use serde::{Deserialize, Serialize};

use super::protocol::Plan;
use crate::loopback::Transport;
use crate::store::reach::{Policy, Service};

/// Arguments of [`Request::Expose`](super::protocol::Request::Expose).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expose {
    /// Local name or id of the VPI, as typed.
    pub vpi: String,
    /// What is exposed.
    pub service: Service,
    /// The members that may reach it, as typed; empty: every member.
    pub to: Vec<String>,
}

/// What changed, and how the machine is to be set up for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// With the services to be let through.
    pub plan: Plan,
    /// What members reach from here on.
    pub reach: Reachable,
}

/// What members of one VPI reach on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reachable {
    /// The VPI's name on this machine.
    pub vpi: String,
    /// What they reach beyond the exposures.
    pub policy: Policy,
    /// By transport, then by port.
    pub exposures: Vec<Exposed>,
}

/// A service on 127.0.0.1 that members reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exposed {
    /// What carries it.
    pub proto: Transport,
    /// Its port.
    pub port: u16,
    /// Who may; `null`: every member.
    pub to: Option<Vec<Named>>,
}

impl Exposed {
    /// The service.
    pub(crate) fn service(&self) -> Service {
        Service { proto: self.proto, port: self.port }
    }
}

/// A device, and what it is called where it is a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    /// As `nas.home`; `null` when the device is no member.
    pub member: Option<String>,
    /// Its device key, 64 hexadecimal digits.
    pub id: String,
}
