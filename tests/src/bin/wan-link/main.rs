//! wan-link: a long way in one program. Two TUN devices in a router's namespace; what the kernel sends into one comes out
//! of the other later, or not at all, or twice.
//!
//! ```text
//!            ┌ near ──► queue with a rate ──► lost? twice? ──► delay ──► far ┐
//!  kernel ───┤                                                              ├─── kernel
//!            └ near ◄── delay ◄── lost? twice? ◄── queue with a rate ◄── far ┘
//! ```
//!
//! Each direction has a thread and a fate ([`fate`]) of its own; the fate of the n-th packet of a direction depends only on
//! the seed. `netns-scripts/lib.sh` (`impair`) sets the routes and rules that lead packets here. SIGTERM or SIGINT ends
//! it; then one line of JSON for each direction says what became of the packets, and how late they left.

mod fate;
mod forward;
mod units;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::fate::{Impairment, Line};
use crate::forward::forward;
use crate::units::{bits_per_second, bytes, duration, share};

/// What Ethernet carries.
const MTU: u16 = 1500;
/// Packets that the kernel keeps for us while we do not run: 100 ms at 1 Gbit/s in full packets. The default of 500 is
/// lost within the time that a busy machine may keep a thread waiting.
const DEVICE_QUEUE_PACKETS: u32 = 10_000;

/// Forwards IP packets between two TUN devices with delay, jitter, loss, duplication, reordering and a rate.
#[derive(Parser)]
#[command(name = "wan-link")]
struct Arguments {
    /// The device towards the host; it is made, and gone with this process.
    near: String,
    /// The device towards the rest of the world; the same.
    far: String,
    /// How long a packet is under way, each way: 20ms, 500us, 1s.
    #[arg(long, value_parser = duration, default_value = "0ms")]
    delay: Duration,
    /// Up to how much longer, evenly spread; packets keep their order.
    #[arg(long, value_parser = duration, default_value = "0ms")]
    jitter: Duration,
    /// The share of packets that is lost: 1%.
    #[arg(long, value_parser = share, default_value = "0%")]
    loss: f64,
    /// The share of packets that comes twice.
    #[arg(long, value_parser = share, default_value = "0%")]
    duplicate: f64,
    /// The share of packets that is held up, so that later ones overtake it.
    #[arg(long, value_parser = share, default_value = "0%")]
    reorder: f64,
    /// For how long a packet is held up to be overtaken.
    #[arg(long, value_parser = duration, default_value = "5ms")]
    hold: Duration,
    /// The rate of the line, each way: 10mbit, 500kbit, 1gbit. IP headers count.
    #[arg(long, value_parser = bits_per_second)]
    rate: Option<u64>,
    /// How many bytes wait in front of a line with a rate; what does not fit is dropped: 64k.
    #[arg(long, value_parser = bytes, default_value = "128k")]
    queue: u64,
    /// Equal seeds, equal fates.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Before any thread is made, so that all inherit it and the signal waits for this one.
    let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    ends.thread_block()?;
    let (near, far) = (open(&arguments.near)?, open(&arguments.far)?);
    eprintln!("forwards {} ⇄ {}", arguments.near, arguments.far);
    let wanted = Arc::new(AtomicBool::new(true));
    let mut directions = Vec::new();
    // The two directions draw from streams of their own: traffic one way does not change the other's fate.
    for (stream, from, to) in [(0, &near, &far), (1, &far, &near)] {
        let line = Line::new(impairment(&arguments), arguments.seed.wrapping_mul(2).wrapping_add(stream));
        let (from, to, wanted) = (Arc::clone(from), Arc::clone(to), Arc::clone(&wanted));
        directions.push(thread::spawn(move || forward(&from, &to, line, &wanted)));
    }
    ends.wait()?;
    wanted.store(false, Ordering::Relaxed);
    for (thread, name) in directions.into_iter().zip(["out", "in"]) {
        let statistics = thread.join().map_err(|_| anyhow!("a direction panicked"))??;
        println!("{}", statistics.to_json(name));
    }
    Ok(())
}

fn impairment(arguments: &Arguments) -> Impairment {
    Impairment {
        delay: arguments.delay,
        jitter: arguments.jitter,
        loss: arguments.loss,
        duplicate: arguments.duplicate,
        reorder: arguments.reorder,
        hold: arguments.hold,
        rate: arguments.rate.map(|bits| fate::Rate { bits_per_second: bits, queue_bytes: arguments.queue }),
    }
}

fn open(name: &str) -> Result<Arc<SyncDevice>> {
    let builder = DeviceBuilder::new().name(name).mtu(MTU);
    let device = builder.with(|linux| {
        linux.tx_queue_len(DEVICE_QUEUE_PACKETS);
    });
    let device = device.build_sync().with_context(|| format!("the device {name} cannot be made"))?;
    device.set_nonblocking(true)?;
    Ok(Arc::new(device))
}
