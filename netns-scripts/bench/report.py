#!/usr/bin/env python3
"""netns-scripts/bench/report.py: medians of bench.sh's rows, ratios between contenders, and what was to be reached.

    report.py table|json FILE...
"""

import json
import statistics
import sys

FACTS = ("name", "round", "under", "loss", "rate")
PEER = "wireguard-go"
QUICK_PEERS = ("wireguard-go", "nebula")


def main():
    form, *files = sys.argv[1:]
    rows = [json.loads(line) for file in files for line in open(file)]
    medians = {}
    for under in dict.fromkeys(row["under"] for row in rows):
        of_under = [row for row in rows if row["under"] == under]
        medians[under] = {name: median([row for row in of_under if row["name"] == name]) for name in names(of_under)}
    goals = list(impaired(medians, rows[0]) if is_impaired(rows[0]) else reached(medians))
    if form == "json":
        print(json.dumps({"medians": medians, "goals": goals}, indent=1))
        return
    for under, of in medians.items():
        print(f"\nunder {under}, medians of {max(row['round'] for row in rows)} rounds (ratio to ours)\n")
        table(of)
    if goals:
        print("\n| figure | seen | floor | aim | |\n|---|---|---|---|---|")
        for goal in goals:
            print(f"| {goal['figure']} | {goal['seen']} | {goal['floor']} | {goal['aim']} | {goal['is']} |")


def names(rows):
    return list(dict.fromkeys(row["name"] for row in rows))


def median(rows):
    keys = [key for key in rows[0] if key not in FACTS]
    return {key: statistics.median(row[key] for row in rows) for key in keys}


def table(of):
    print("| | " + " | ".join(of) + " |\n|" + "---|" * (len(of) + 1))
    ours = of.get("ours", {})
    for key in next(iter(of.values())):
        cells = []
        for name, row in of.items():
            ratio = f" ({row[key] / ours[key]:.2f})" if ours.get(key) and name != "ours" and key != "mtu" else ""
            cells.append(f"{row[key]:g}{ratio}")
        print(f"| {key} | " + " | ".join(cells) + " |")


def reached(medians):
    """The figures that can be had from these rows, with floor and aim."""

    def value(under, name, key):
        return medians.get(under, {}).get(name, {}).get(key)

    def ratio(figure, over, under, key, bounds):
        first, second = value(under, over[0], key), value(under, over[1], key)
        if first and second:
            yield goal(figure, first / second, bounds, is_more=True)

    def at_most(figure, seen, bounds):
        if seen is not None:
            yield goal(figure, seen, bounds, is_more=False)

    peer = ("ours", PEER)
    yield from ratio("TCP 1 stream, ours / wireguard-go", peer, "offload", "tcp1_gbps", (2.0, 2.6))
    yield from ratio("TCP 4 streams, ours / wireguard-go", peer, "offload", "tcp4_gbps", (2.0, 3.0))
    yield from at_most("CPU s/GB, both ends", value("offload", "ours", "tcp1_cpu_s_per_gb"), (2.0, 1.3))
    yield from ratio("gro underlay, ours / wireguard-go", peer, "gro", "tcp1_gbps", (1.5, 2.5))
    yield from ratio("nooffload underlay, ours / wireguard-go", peer, "nooffload", "tcp1_gbps", (1.0, 1.5))
    chacha = ("ours-chacha20", PEER)
    yield from ratio("ChaCha only, ours / wireguard-go", chacha, "offload", "tcp1_gbps", (1.3, 1.8))
    yield from ratio("relayed by a member, ours / direct", ("relayed", "ours"), "offload", "tcp1_gbps", (0.4, 0.6))
    best = [value("offload", name, "udp_paced_kpps") for name in QUICK_PEERS]
    if any(best) and value("offload", "ours", "udp_paced_kpps"):
        seen = value("offload", "ours", "udp_paced_kpps") / max(filter(None, best))
        yield goal("UDP 128 B, paced until 1 % loss, ours / best peer", seen, (1.0, 2.0), is_more=True)
    for which, bounds in ("mean", (210, 130)), ("p99", (430, 250)):
        pair = [value("offload", name, f"rtt_{which}_us") for name in ("ours", "bare")]
        if all(pair):
            yield goal(f"RTT added over the cable, {which}, µs", pair[0] - pair[1], bounds, is_more=False)
    yield from at_most("RSS idle, MB", value("offload", "ours", "rss_idle_mb"), (20, 12))
    yield from at_most("RSS under load, MB", value("offload", "ours", "rss_load_mb"), (40, 24))


def is_impaired(row):
    return row["loss"] != "0" or row["rate"] != "0"


def impaired(medians, row):
    """The figures that only a cable which loses or limits gives; floor and aim are one."""
    for under, of in medians.items():
        ours, bare = of.get("ours", {}), of.get("bare", {})
        if row["loss"] == "1" and ours.get("tcp1_gbps") and bare.get("tcp1_gbps"):
            ratio = ours["tcp1_gbps"] / bare["tcp1_gbps"]
            yield goal(f"1 % loss, ours / plain TCP, {under}", ratio, (0.9, 0.9), is_more=True)
        for which, most in ("mean", 1_000), ("p99", 3_000):
            key = f"rtt_loaded_{which}_us"
            if row["rate"] != "0" and key in ours and key in bare:
                figure = f"RTT under load over the cable's, {which}, µs, {under}"
                yield goal(figure, ours[key] - bare[key], (most, most), is_more=False)


def goal(figure, seen, bounds, is_more):
    floor, aim = bounds
    meets = (lambda bound: seen >= bound) if is_more else (lambda bound: seen <= bound)
    verdict = "aim" if meets(aim) else "floor" if meets(floor) else "missed"
    sign = "≥" if is_more else "≤"
    return {"figure": figure, "seen": round(seen, 2), "floor": f"{sign} {floor}", "aim": f"{sign} {aim}", "is": verdict}


if __name__ == "__main__":
    main()
