#!/usr/bin/env python3
"""netns-scripts/bench/stream.py: one TCP stream from host a to a target on host b, as one JSON line; and what many came to.

For links that lose so much that TCP, not a processor, decides: Mbit/s that the receiver saw, the retransmissions of the
sender, and nothing else. `--report FILE` prints the medians, and how much of the plain stream passes through the tunnel.
"""

import argparse
import json
import statistics

from measure import Lab


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lab")
    parser.add_argument("--target")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--report")
    parser.add_argument("facts", nargs="*")
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments.report)
        return
    row = dict(fact.split("=", 1) for fact in arguments.facts)
    lab = Lab(arguments.lab, arguments.target, arguments.seconds)
    lab.wait_until_up()
    end, _ = lab.iperf(arguments.seconds)
    row["mbit"] = round(end["sum_received"]["bits_per_second"] / 1e6, 3)
    row["retransmits"] = end["sum_sent"]["retransmits"]
    print(json.dumps(row), flush=True)


def report(file):
    with open(file) as lines:
        rows = [json.loads(line) for line in lines]
    medians = {}
    for name in dict.fromkeys(row["name"] for row in rows):
        rates = sorted(row["mbit"] for row in rows if row["name"] == name)
        medians[name] = statistics.median(rates)
        print(f"{name:>6}  median {medians[name]:.3f} Mbit/s of {len(rates)}, {rates[0]:.3f} to {rates[-1]:.3f}")
    if medians.get("bare"):
        print(f"  ours / bare  {medians['ours'] / medians['bare']:.2f}")


if __name__ == "__main__":
    main()
