#!/usr/bin/env python3
"""netns-scripts/bench/flood.py: what a flood at the port costs those who use it.

    flood.py rounds --lab LAB --target ALIAS --port PORT --rounds N --seconds S [--kpps 100]
    flood.py send PORT FILE KPPS SECONDS          (run by it on host c)

One TCP stream a → b through the tunnel while c sends to b's port, beside one while c sends the same to a port that nft
drops. Three floods: junk (half data datagrams of no session, half veiled ones, random), replays (what a sent to b,
recorded on a's cable), and datagrams of b's sessions with counters to come and wrong tags. RSS is of b's node.
"""

import argparse
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import time

import measure

DATA, VEILED = 0x80, 0x81
SMALL_BYTES = 128
RECORDED_MAX = 2_048
BURST_BYTES = 60_000
BURST_MAX = 64
UDP_SEGMENT = 103
ETH_P_ALL = 3
B = "10.77.0.2"


def main():
    if sys.argv[1] == "send":
        port, file, kpps, seconds = sys.argv[2:]
        send(int(port), file, float(kpps), float(seconds))
        return
    if sys.argv[1] == "record":
        record(sys.argv[2], float(sys.argv[3]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds_word")
    parser.add_argument("--lab", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--kpps", type=float, default=100)
    arguments = parser.parse_args()
    lab = measure.Lab(arguments.lab, arguments.target, arguments.seconds)
    lab.wait_until_up()
    floods = make_floods(lab, arguments.folder)
    drop_neighbour(lab, arguments.port + 1)
    # Memory that packets of every sort touch once, whoever sends them.
    lab.udp(20, 2)
    rows = []
    for number in range(1, arguments.rounds + 1):
        for kind, file in floods.items():
            rows.append(one(lab, arguments, kind, file) | {"round": number})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    table(rows)


def one(lab, arguments, kind, file):
    row = {"flood": kind}
    before = rss_kib(lab)
    for where, port in ("port", arguments.port), ("neighbour", arguments.port + 1):
        words = [*lab.inside("c"), sys.executable, __file__, "send", str(port), file]
        sender = subprocess.Popen(
            [*words, str(arguments.kpps), str(lab.seconds + 1)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(0.5)
        end, _ = lab.iperf(lab.seconds)
        sent = float(sender.communicate(timeout=30)[0])
        row[f"{where}_gbps"] = round(end["sum_received"]["bits_per_second"] / 1e9, 3)
        row[f"{where}_kpps"] = round(sent, 1)
    row["ratio"] = round(row["port_gbps"] / max(row["neighbour_gbps"], 1e-9), 3)
    row["rss_growth_mib"] = round((rss_kib(lab) - before) / 1024, 2)
    return row


def table(rows):
    keys = ("port_gbps", "neighbour_gbps", "ratio", "rss_growth_mib", "port_kpps", "neighbour_kpps")
    print("| flood | " + " | ".join(keys) + " |\n|" + "---|" * (len(keys) + 1))
    for kind in dict.fromkeys(row["flood"] for row in rows):
        of = [row for row in rows if row["flood"] == kind]
        print(f"| {kind} | " + " | ".join(f"{statistics.median(row[key] for row in of):g}" for key in keys) + " |")
    print("\nmedians; ratio: floor 0.8, RSS: at most 2 MiB")


def make_floods(lab, folder):
    file = f"{folder}/recorded"
    recorder = subprocess.Popen([*lab.inside("a"), sys.executable, __file__, "record", file, "2"])
    time.sleep(0.5)
    lab.iperf(1)
    recorder.wait(20)
    recorded = read(file)
    if not recorded:
        raise SystemExit("nothing of a's was recorded")
    rng = random.Random(7)
    junk = [
        bytes([kind, 0, 0, 0]) + rng.randbytes(SMALL_BYTES - 4) for _ in range(512) for kind in (DATA, VEILED)
    ]
    index = recorded[-1][4:8]
    # Beyond what the session will have used, so that the window lets the tag be looked at.
    counters = range(1 << 30, (1 << 30) + 1_024)
    forged = [
        bytes([DATA, 0, 0, 0]) + index + struct.pack(">Q", counter) + rng.randbytes(SMALL_BYTES - 16)
        for counter in counters
    ]
    return {
        "junk": write(f"{folder}/junk", junk),
        "replays": write(f"{folder}/replays", recorded),
        "wrong tags": write(f"{folder}/forged", forged),
    }


def record(file, seconds):
    """Writes down data datagrams of one size, as they leave this host."""
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    listener.bind(("eth0", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    listener.settimeout(0.2)
    end, found = time.monotonic() + seconds, []
    while time.monotonic() < end and len(found) < RECORDED_MAX:
        try:
            frame, address = listener.recvfrom(1 << 17)
        except TimeoutError:
            continue
        # Only what goes out; behind Ethernet, IPv4 and UDP.
        if address[2] == socket.PACKET_OUTGOING and frame[23] == socket.IPPROTO_UDP and frame[42] == DATA:
            found += runs(frame[42:])
    sizes = [len(datagram) for datagram in found]
    full = max(sizes, key=sizes.count, default=0)
    write(file, [datagram for datagram in found if len(datagram) == full][:RECORDED_MAX])


def runs(payload):
    """The datagrams of a run that the kernel has not cut yet: each begins with the header of the first, counted up."""
    again = payload.find(payload[:8], 8)
    size = again if again > 0 else len(payload)
    return [payload[at : at + size] for at in range(0, len(payload) - size + 1, size)]


def write(file, datagrams):
    with open(file, "wb") as out:
        for datagram in datagrams:
            out.write(struct.pack(">H", len(datagram)) + datagram)
    return file


def read(file):
    datagrams, content, at = [], open(file, "rb").read(), 0
    while at < len(content):
        (size,) = struct.unpack_from(">H", content, at)
        datagrams.append(content[at + 2 : at + 2 + size])
        at += 2 + size
    return datagrams


def send(port, file, kpps, seconds):
    """Sends the datagrams of a file, all of one size, again and again, in runs that the kernel cuts; prints the rate."""
    datagrams = read(file)
    size = len(datagrams[0])
    count = min(BURST_MAX, BURST_BYTES // size, len(datagrams))
    bursts = [b"".join(datagrams[at : at + count]) for at in range(0, len(datagrams) - count + 1, count)]
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    sender.connect((B, port))
    begin = time.monotonic()
    number = 0
    while (now := time.monotonic() - begin) < seconds:
        ahead = number * count / (kpps * 1e3) - now
        if ahead > 0:
            time.sleep(ahead)
        sender.send(bursts[number % len(bursts)])
        number += 1
    print(number * count / (time.monotonic() - begin) / 1e3)


def drop_neighbour(lab, port):
    rules = f"table inet neighbour {{ chain c {{ type filter hook prerouting priority -300; udp dport {port} drop; }}; }}"
    subprocess.run([*lab.inside("b"), "nft", rules], check=True)


def rss_kib(lab):
    pid = int(open(f"/run/vpi-labs/{lab.lab}/b/state/lock").read())
    status = open(f"/proc/{pid}/status").read()
    return int(status.split("VmRSS:")[1].split()[0])


if __name__ == "__main__":
    main()
