#!/usr/bin/env python3
"""netns-scripts/bench/rekeys.py: a long time at full rate over many rekeys: what is lost, and whether memory stays flat.

    rekeys.py --lab LAB --target ALIAS --seconds S

One TCP stream a → b, and beside it numbered datagrams b → a, which the stream does not crowd out: one that is missing
was lost on the way. Handshakes are the veiled datagrams that b's cable brought. Drops are what both nodes counted.
"""

import argparse
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time

import measure

LABS = "/run/vpi-labs"
PACE_SECONDS = 0.005
SAMPLE_SECONDS = 5.0
PORT = 7_007
COUNT_VEILED = """table inet rekeys { counter veiled {}
chain c { type filter hook prerouting priority -300; iifname "eth0" meta l4proto udp @th,64,8 0x81 counter name veiled; }; }"""


def main():
    if sys.argv[1] in ("probe", "hear"):
        {"probe": probe, "hear": hear}[sys.argv[1]](*sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--lab", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--back", required=True)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    lab = measure.Lab(arguments.lab, arguments.target, arguments.seconds)
    lab.wait_until_up()
    subprocess.run([*lab.inside("b"), "nft", COUNT_VEILED], check=True)
    before = {host: drops(lab, arguments.binary, host) for host in "ab"}
    me = [sys.executable, __file__]
    ear = subprocess.Popen([*lab.inside("a"), *me, "hear", str(arguments.seconds + 3)], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    mouth = subprocess.Popen(
        [*lab.inside("b"), *me, "probe", arguments.back, str(arguments.seconds)], stdout=subprocess.PIPE, text=True
    )
    sizes, done = {"a": [], "b": []}, threading.Event()
    watch = threading.Thread(target=sample, args=(lab, sizes, done))
    watch.start()
    end, _ = lab.iperf(arguments.seconds)
    done.set()
    watch.join()
    sent, heard = int(mouth.communicate(timeout=60)[0]), json.loads(ear.communicate(timeout=60)[0])
    print(f"{end['sum_received']['bytes'] / 1e9:.1f} GB in {arguments.seconds:g} s, {handshakes(lab)} veiled datagrams to b")
    print(f"numbered datagrams: {sent} sent, {heard['came']} came, longest pause {heard['pause_ms']:.0f} ms")
    for host, of in sizes.items():
        quarter = max(len(of) // 4, 1)
        first, last = statistics.median(of[:quarter]), statistics.median(of[-quarter:])
        print(f"RSS of {host}: {min(of)} to {max(of)} KiB; first quarter {first:.0f}, last {last:.0f} (medians)")
    for host in "ab":
        after = drops(lab, arguments.binary, host)
        more = {reason: count - before[host].get(reason, 0) for reason, count in after.items()}
        print(f"drops of {host}: { {reason: count for reason, count in more.items() if count} or 'none'}")


def probe(target, seconds):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    begin, number = time.monotonic(), 0
    while time.monotonic() - begin < float(seconds):
        sender.sendto(number.to_bytes(4, "big"), (target, PORT))
        number += 1
        time.sleep(max(begin + number * PACE_SECONDS - time.monotonic(), 0))
    print(number)


def hear(seconds):
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    receiver.bind(("0.0.0.0", PORT))
    receiver.settimeout(1)
    end, seen, last_at, pause = time.monotonic() + float(seconds), set(), None, 0.0
    while (now := time.monotonic()) < end:
        try:
            seen.add(receiver.recv(16))
        except TimeoutError:
            continue
        now = time.monotonic()
        pause = max(pause, now - last_at if last_at else 0.0)
        last_at = now
    print(json.dumps({"came": len(seen), "pause_ms": pause * 1e3}))


def sample(lab, sizes, done):
    while not done.wait(SAMPLE_SECONDS):
        for host, of in sizes.items():
            pid = int(open(f"{LABS}/{lab.lab}/{host}/state/lock").read())
            of.append(int(open(f"/proc/{pid}/status").read().split("VmRSS:")[1].split()[0]))


def drops(lab, binary, host):
    words = ["env", f"VPI_STATE={LABS}/{lab.lab}/{host}/state", binary, "status", "--drops", "--json"]
    return json.loads(measure.run(*lab.inside(host), *words))["vpis"][0]["drops"]


def handshakes(lab):
    said = measure.run(*lab.inside("b"), "nft", "list", "counter", "inet", "rekeys", "veiled")
    return int(re.search(r"packets (\d+)", said)[1])


if __name__ == "__main__":
    main()
