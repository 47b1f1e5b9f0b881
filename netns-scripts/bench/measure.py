#!/usr/bin/env python3
"""netns-scripts/bench/measure.py: one row of bench.sh, as one JSON line.

Every process in the namespaces of hosts a and b when this starts is the tunnel. Throughput is what the receiver saw.
CPU is utime + stime of the tunnel's processes at both ends, for 10^9 bytes of TCP payload. UDP: 128 bytes of payload,
as fast as the sender can (flood), and at the highest pace at which at most 1 % is lost. RTT: ping, on an idle link and
while one TCP stream runs in the same direction.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import time

UDP_BYTES = 128
# Halvings between nothing and twice the rate that a flood leaves: within 3 % of that rate.
PACE_STEPS = 6
PACE_SECONDS = 1.0
LOSS_MAX = 0.01
TICK = os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lab", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--only", required=True)
    parser.add_argument("facts", nargs="*")
    arguments = parser.parse_args()
    row = dict(fact.split("=", 1) for fact in arguments.facts)
    row["round"] = int(row["round"])
    lab = Lab(arguments.lab, arguments.target, arguments.seconds)
    lab.wait_until_up()
    row["mtu"] = lab.mtu()
    row["rss_idle_mb"] = lab.rss_mb()
    parts = {"tcp": tcp, "udp": udp, "rtt": rtt}
    for part in arguments.only.split(","):
        row |= parts[part](lab)
    row["rss_load_mb"] = lab.rss_mb()
    print(json.dumps(row), flush=True)


def tcp(lab):
    row = {}
    for key, streams in ("tcp1", 1), ("tcp4", 4):
        end, used = lab.iperf(lab.seconds, "-P", str(streams))
        received = end["sum_received"]
        row[f"{key}_gbps"] = round(received["bits_per_second"] / 1e9, 3)
        row[f"{key}_cpu_s_per_gb"] = round(used / max(received["bytes"] / 1e9, 1e-9), 3)
        row[f"{key}_retransmits"] = end["sum_sent"]["retransmits"]
    return row


def udp(lab):
    flood, lost = lab.udp(0, lab.seconds / 2)
    low, high, best = 0.0, flood * 2, 0.0
    for _ in range(PACE_STEPS):
        pace = (low + high) / 2
        came, lost_share = lab.udp(pace, PACE_SECONDS)
        if lost_share <= LOSS_MAX:
            low, best = pace, max(best, came)
        else:
            high = pace
    return {"udp_flood_kpps": round(flood, 1), "udp_flood_lost": round(lost, 3), "udp_paced_kpps": round(best, 1)}


def rtt(lab):
    row = shares("rtt", lab.ping(300, 0.01))
    server = lab.serve()
    load = subprocess.Popen(
        [*lab.inside("a"), "iperf3", "-c", lab.target, "-t", "5"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # Past the start of the stream.
    time.sleep(1)
    row |= shares("rtt_loaded", lab.ping(300, 0.01))
    load.wait(20)
    server.wait(5)
    return row


def shares(key, times):
    times.sort()
    return {
        f"{key}_mean_us": round(statistics.mean(times)),
        f"{key}_p50_us": round(times[len(times) // 2]),
        f"{key}_p99_us": round(times[int(len(times) * 0.99) - 1]),
    }


class Lab:
    def __init__(self, lab, target, seconds):
        self.lab, self.target, self.seconds = lab, target, seconds
        self.processes = [
            int(pid) for host in "ab" for pid in run("ip", "netns", "pids", f"{lab}-{host}").split()
        ]

    def inside(self, host):
        return ["ip", "netns", "exec", f"{self.lab}-{host}"]

    def wait_until_up(self):
        for _ in range(60):
            if subprocess.run([*self.inside("a"), "ping", "-c1", "-W1", self.target], capture_output=True).returncode == 0:
                break
        else:
            raise SystemExit("the tunnel did not come up")
        # The path's size is being found: ours probes for it.
        time.sleep(1)

    def mtu(self):
        device = re.search(r" dev (\S+)", run(*self.inside("a"), "ip", "route", "get", self.target))[1]
        return int(re.search(r" mtu (\d+)", run(*self.inside("a"), "ip", "link", "show", device))[1])

    def cpu(self):
        used = 0
        for stat in self.of_processes("stat"):
            fields = stat.rsplit(")", 1)[1].split()
            used += int(fields[11]) + int(fields[12])
        return used / TICK

    def rss_mb(self):
        """Of the larger end."""
        sizes = [0.0]
        for status in self.of_processes("status"):
            found = re.search(r"VmRSS:\s+(\d+)", status)
            sizes.append(int(found[1]) / 1024 if found else 0.0)
        return round(max(sizes), 1)

    def of_processes(self, file):
        """This file of each process that still is: ours has one now and then that writes something down and ends."""
        for pid in self.processes:
            try:
                with open(f"/proc/{pid}/{file}") as content:
                    yield content.read()
            except (FileNotFoundError, ProcessLookupError):
                continue

    def serve(self):
        server = subprocess.Popen([*self.inside("b"), "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        return server

    def iperf(self, seconds, *more):
        """The end of what iperf3 says, and the tunnel's CPU seconds."""
        server, before = self.serve(), self.cpu()
        words = [*self.inside("a"), "iperf3", "-c", self.target, "-J", "-t", f"{seconds:g}", *more]
        said = json.loads(run(*words, limit=seconds + 60))
        used = self.cpu() - before
        server.wait(10)
        if "error" in said:
            raise SystemExit(f"iperf3: {said['error']}")
        return said["end"], used

    def udp(self, kpps, seconds):
        """What was received, in 1,000 a second, and the share that was lost."""
        rate = round(kpps * 1e3 * UDP_BYTES * 8)
        end, _ = self.iperf(max(seconds, 1), "-u", "-l", str(UDP_BYTES), "-b", str(rate))
        total = end["sum"]
        came = total["packets"] - total["lost_packets"]
        return came / total["seconds"] / 1e3, total["lost_packets"] / max(total["packets"], 1)

    def ping(self, count, interval):
        said = run(*self.inside("a"), "ping", "-i", str(interval), "-c", str(count), self.target)
        return [float(ms) * 1e3 for ms in re.findall(r"time=([\d.]+)", said)]


def run(*words, limit=60.0):
    return subprocess.run(words, capture_output=True, text=True, timeout=limit).stdout


if __name__ == "__main__":
    main()
