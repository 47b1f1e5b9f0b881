#!/usr/bin/env python3
"""netns-scripts/bench/crowd.py: one node with many peers in one VPI, a TCP stream to each of them at once.

    crowd.py --lab LAB --binary VPI --peers N --rounds N --seconds S

The lab is of the topology crowd: hosts hub and p1 … pN. Rounds take turns: a stream to one peer, streams to all, and both
again beside the tunnel, from switch port to switch port. Prints the sum beside one peer's, Jain's fairness of the streams,
and the hub's memory a peer: RSS with all links up less RSS with one that was busy.

All peers' nodes and programs share this machine's processors with the hub: what the machine makes of so many plain streams,
and the processor seconds that the hub's node alone takes for a GB, tell the hub's part from theirs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

LABS = "/run/vpi-labs"
AT_ONCE = 4
TRIES = 5
SETTLE_SECONDS = 120
# Of one processor, for all nodes together.
QUIET_SHARE = 0.05
# The node gives a load's memory back after 5.
CALM_SECONDS = 8


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lab", required=True)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--peers", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    crowd = Crowd(arguments)
    token = crowd.found()
    crowd.join(crowd.names[:1], token)
    # What one busy peer needs, buffers included, is not counted for the others.
    crowd.streams(crowd.aliases(crowd.names[:1]))
    time.sleep(CALM_SECONDS)
    before = crowd.rss_kib("hub")
    crowd.join(crowd.names[1:], token)
    aliases = crowd.aliases(crowd.names)
    for alias in aliases:
        subprocess.run(crowd.on("hub", "ping", "-c1", "-W5", alias), capture_output=True)
    up = crowd.rss_kib("hub")
    crowd.settle()
    rows, loaded = [], 0
    for number in range(1, arguments.rounds + 1):
        one, one_cost, one_all = crowd.costs(aliases[:1])
        many, cost, all_cost = crowd.costs(aliases)
        loaded = max(loaded, crowd.rss_kib("hub"))
        bare_one, bare_many = crowd.streams(crowd.beside[:1]), crowd.streams(crowd.beside)
        rows.append(
            {
                "round": number,
                "peers": len(aliases),
                "one_gbps": round(sum(one) / 1e9, 3),
                "sum_gbps": round(sum(many) / 1e9, 3),
                "ratio": round(sum(many) / max(sum(one), 1), 3),
                "jain": round(jain(many), 3),
                "least_mbps": round(min(many) / 1e6, 1),
                "most_mbps": round(max(many) / 1e6, 1),
                "plain_ratio": round(sum(bare_many) / max(sum(bare_one), 1), 3),
                "one_hub_s_per_gb": round(one_cost, 3),
                "hub_s_per_gb": round(cost, 3),
                "hub_ratio": round(cost / max(one_cost, 1e-9), 2),
                "one_nodes_s_per_gb": round(one_all, 3),
                "nodes_s_per_gb": round(all_cost, 3),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    keys = [key for key in rows[0] if key != "round"]
    print("| " + " | ".join(keys) + " |\n|" + "---|" * len(keys))
    print("| " + " | ".join(f"{statistics.median(row[key] for row in rows):g}" for key in keys) + " |")
    time.sleep(CALM_SECONDS)
    after = crowd.rss_kib("hub")
    others = max(len(aliases) - 1, 1)
    print(f"\nhub's RSS: {before} KiB with one busy peer, {up} KiB with {len(aliases)} links up, {loaded} KiB under load,")
    print(f"{after} KiB {CALM_SECONDS} s later; each other peer: {(up - before) / others:.1f} KiB, under load")
    print(f"{(loaded - before) / others:.1f} KiB, later {(after - before) / others:.1f} KiB (at most 64)")
    print("ratio: floor 0.7, aim 0.9; Jain: at least 0.9")
    print("plain_ratio: the same beside the tunnel; hub_ratio: processor seconds a GB of the hub's node, with all peers beside one")


def jain(rates):
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates)) if any(rates) else 0.0


class Crowd:
    def __init__(self, arguments):
        self.lab, self.binary, self.seconds = arguments.lab, arguments.binary, arguments.seconds
        self.names = [f"p{number}" for number in range(1, arguments.peers + 1)]
        # By which topologies/crowd.sh knows them.
        self.beside = [f"10.78.1.{number}" for number in range(1, arguments.peers + 1)]
        for host in ["hub", *self.names]:
            self.start(host)
        for host in ["hub", *self.names]:
            self.wait(host)

    def on(self, host, *words):
        return ["ip", "netns", "exec", f"{self.lab}-{host}", *words]

    def vpi(self, host, *words, **more):
        environment = os.environ | {"VPI_STATE": f"{LABS}/{self.lab}/{host}/state"}
        said = subprocess.run(
            self.on(host, self.binary, *words, "--json"), env=environment, capture_output=True, text=True, **more
        )
        if said.returncode:
            raise SystemExit(f"vpi {words[0]} on {host}: {said.stderr.strip()}")
        return json.loads(said.stdout)

    def start(self, host):
        folder = f"{LABS}/{self.lab}/{host}"
        environment = os.environ | {"VPI_STATE": f"{folder}/state"}
        subprocess.Popen(
            self.on(host, self.binary, "up"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=open(f"{folder}/node.out", "w"),
            stderr=open(f"{folder}/node.log", "w"),
            start_new_session=True,
        )

    def wait(self, host):
        for _ in range(600):
            if "ready" in open(f"{LABS}/{self.lab}/{host}/node.out").read().lower():
                return
            time.sleep(0.1)
        raise SystemExit(f"the node on {host} does not get ready")

    def found(self):
        self.vpi("hub", "create", "home", "--name", "hub")
        return self.vpi("hub", "invite", "home", "--uses", str(len(self.names)))["token"]

    def join(self, names, token):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda name: self.join_one(name, token), names))

    def join_one(self, name, token):
        """A busy machine may need more than one call; the same token goes on where it was."""
        for _ in range(TRIES - 1):
            try:
                return self.vpi(name, "join", "--name", name, input=token)
            except SystemExit:
                time.sleep(1)
        return self.vpi(name, "join", "--name", name, input=token)

    def aliases(self, names):
        """By which the hub knows these; waits until it knows them all."""
        for _ in range(300):
            members = self.vpi("hub", "status")["vpis"][0]["members"]
            known = {member["name"]: member["alias"] for member in members}
            if all(name in known for name in names):
                return [known[name] for name in names]
            time.sleep(0.2)
        raise SystemExit("the hub does not know everybody")

    def settle(self):
        """Waits until the nodes have told each other who belongs, and do nothing any more."""
        for _ in range(SETTLE_SECONDS):
            before = self.cpu()
            time.sleep(1)
            if self.cpu() - before <= QUIET_SHARE:
                return
        print(f"the nodes are still busy after {SETTLE_SECONDS} s", file=sys.stderr)

    def costs(self, aliases):
        """What streams() gives, and the processor seconds a GB (10^9 bytes) of the hub's node, and of all nodes."""
        hub, nodes, came = self.cpu(["hub"]), self.cpu(), self.came_bytes()
        rates = self.streams(aliases)
        gigabytes = max((self.came_bytes() - came) / 1e9, 1e-9)
        return rates, (self.cpu(["hub"]) - hub) / gigabytes, (self.cpu() - nodes) / gigabytes

    def came_bytes(self):
        """What came out of the tunnel at the peers, as their devices count it."""
        total = 0
        for name in self.names:
            with open(f"/proc/{self.pid(name)}/net/dev") as devices:
                total += int(devices.read().split("vpi-home:")[1].split()[0])
        return total

    def cpu(self, hosts=None):
        """Seconds of processor time that these nodes have used; by default all."""
        used = 0
        for host in hosts or ["hub", *self.names]:
            with open(f"/proc/{self.pid(host)}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            used += int(fields[11]) + int(fields[12])
        return used / os.sysconf("SC_CLK_TCK")

    def pid(self, host):
        return int(open(f"{LABS}/{self.lab}/{host}/state/lock").read())

    def streams(self, aliases):
        """Bits a second of one TCP stream from the hub to each of the first peers, at once, as received."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        servers = [
            subprocess.Popen(self.on(name, "iperf3", "-s", "-1"), **quiet) for name in self.names[: len(aliases)]
        ]
        time.sleep(1 + len(aliases) / 50)
        words = ["-J", "-t", f"{self.seconds:g}", "-O", "1"]
        clients = [
            subprocess.Popen(self.on("hub", "iperf3", "-c", alias, *words), stdout=subprocess.PIPE, text=True)
            for alias in aliases
        ]
        rates = []
        for client in clients:
            said = json.loads(client.communicate(timeout=120)[0])
            rates.append(0.0 if "error" in said else said["end"]["sum_received"]["bits_per_second"])
        for server in servers:
            server.terminate()
            server.wait(10)
        return rates

    def rss_kib(self, host):
        return int(open(f"/proc/{self.pid(host)}/status").read().split("VmRSS:")[1].split()[0])


if __name__ == "__main__":
    main()
