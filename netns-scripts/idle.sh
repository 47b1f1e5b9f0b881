#!/usr/bin/env bash
# netns-scripts/idle.sh: what nodes cost that nobody uses, from when their links have closed.
#
#      a  10.77.0.1 ── node      alone: a VPI without another member
#
#      a  10.77.0.1 ── node ──┐
#      b … e        ── node ──┤ switch      four peers, a link to each was up and has closed
#      f            ── beacon ┘             with --beacon: all of them know it, and have a place there
#
#   idle.sh [--minutes N] [--peers LIST] [--beacon] [--binary FILE] [--settings LINE]... [--json]
#
# --peers is a list such as 0,4 (the default): one network each, side by side. For every node it prints memory,
# processor time, wake-ups of each thread (voluntary context switches), packets and bytes of UDP and TCP at the network
# card in each direction (with the headers of IP), and why the driver woke. --settings adds lines to the settings file,
# which says idle_after = 10. Figures are of N minutes (default 10), not scaled.
#
# With --beacon it begins 15 minutes after the links have closed, and goes on until it has seen the change of a slot
# (protocol/README §18: each full hour) with the 10 minutes before and the 11 behind it, in which members publish. Then it
# also prints bytes_an_hour, both directions with the headers of IP: what went during that change, and
# for the 39 minutes that are left of an hour as much as in the minutes around it. Needs root.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

minutes=10 peers=0,4 format=table beacon=no binary=
settings=("idle_after = 10")
labs=()

main() {
    while (($#)); do
        case $1 in
            --minutes) minutes=${2:?} && shift ;;
            --peers) peers=${2:?} && shift ;;
            --binary) binary=${2:?} && shift ;;
            --beacon) beacon=yes ;;
            --settings) settings+=("${2:?}") && shift ;;
            --json) format=json ;;
            *) fail "knows no option $1" ;;
        esac
        shift
    done
    need_root "the lab"
    need_tools ip nft python3
    need_tun
    binary=${binary:-$(target_folder)/release/vpi}
    [[ -x $binary ]] || fail "$binary is missing; build it with: cargo build --release -p node"
    export LAB_TRACE=/dev/null
    folder=$(mktemp -d)
    trap finish EXIT
    printf '%s\n' "${settings[@]}" >"$folder/settings.toml"
    local count
    for count in ${peers//,/ }; do
        network "$count"
    done
    for lab in "${labs[@]}"; do
        # idle_after, then the rest of a session's life (protocol/README: 180 s), for links made one after the other.
        wait_for 400 "the links of $lab to close" is_quiet
    done
    echo "the links have closed" >&2
    [[ $beacon == no ]] || sleep $((15 * 60))
    echo "measuring from $(date +%H:%M:%S)" >&2
    python3 -c "$MEASURE" "$LABS" "$minutes" "$format" "$beacon" "${labs[@]}"
}

# network PEERS: a lab of its own, a link between every two nodes. The beacon is on the last host.
network() {
    local count=$1 host token alias founding=() beacons=0
    ((count >= 0 && count <= 24)) || fail "a network has 0 to 24 peers, not $count"
    lab=idle$$-$count
    labs+=("$lab")
    [[ $beacon == no ]] || beacons=1
    "$here/run.sh" up lan --name "$lab" --hosts $((count + 1 + beacons)) >/dev/null
    mapfile -t hosts < <(cut -d' ' -f1 "$LABS/$lab/hosts")
    if [[ $beacon == yes ]]; then
        host=${hosts[-1]}
        unset 'hosts[-1]'
        background "$host" "$binary" beacon
        wait_for 10 "the ready line of the beacon" grep -qi ready "$LABS/$lab/$host/node.out"
        founding=(--beacon "$(grep -m1 /tcp/ "$LABS/$lab/$host/node.out")")
    fi
    printf '%s\n' "${hosts[@]}" >"$LABS/$lab/nodes"
    for host in "${hosts[@]}"; do
        # shellcheck disable=SC2016 # the shell inside reads its own arguments
        background "$host" sh -c 'nft -f - <<END && exec "$0" "$@"
table inet idle {
    counter sent_udp {}
    counter sent_tcp {}
    counter received_udp {}
    counter received_tcp {}
    chain out {
        type filter hook output priority 0
        oifname "eth0" meta l4proto udp counter name sent_udp
        oifname "eth0" meta l4proto tcp counter name sent_tcp
    }
    chain in {
        type filter hook input priority 0
        iifname "eth0" meta l4proto udp counter name received_udp
        iifname "eth0" meta l4proto tcp counter name received_tcp
    }
}
END' env VPI_LOG=info,vpi::driver=trace,vpi::store=debug "$binary" up --config "$folder/settings.toml"
        wait_for 10 "the ready line of $host" grep -qi ready "$LABS/$lab/$host/node.out"
    done
    on a "$binary" create home --name a --json "${founding[@]}" >/dev/null
    for host in "${hosts[@]:1}"; do
        token=$(on a "$binary" invite home --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])')
        on "$host" "$binary" join --name "$host" --json <<<"$token" >/dev/null
    done
    for host in "${hosts[@]}"; do
        wait_for 60 "$host to know everybody" knows "$host" ${#hosts[@]}
        for alias in $(members "$host" 'member["alias"] for member in members if member["state"] != "self"'); do
            wait_for 30 "$host to reach $alias" on "$host" "$binary" ping "$alias" -c 1
        done
    done
}

# members HOST EXPRESSION: words about the members that HOST knows.
members() {
    on "$1" "$binary" status --json | python3 -c "
import json, sys
members = json.load(sys.stdin)['vpis'][0]['members']
print(*($2))"
}

knows() {
    (($(members "$1" 'member["id"] for member in members' | wc -w) == $2))
}

# Nobody is connected to anybody.
is_quiet() {
    local host busy
    while read -r host; do
        busy=$(members "$host" 'member["name"] for member in members if member["state"] not in ("self", "idle")') || return 1
        [[ -z $busy ]] || return 1
    done <"$LABS/$lab/nodes"
}

on() {
    local host=$1
    shift
    "$here/run.sh" exec "$lab" "$host" timeout 20 "$@"
}

background() {
    local host=$1
    shift
    setsid "$here/run.sh" exec "$lab" "$host" "$@" </dev/null \
        >"$LABS/$lab/$host/node.out" 2>"$LABS/$lab/$host/node.log" &
    disown
}

finish() {
    local result=$? lab
    for lab in "${labs[@]}"; do
        [[ ! -e $LABS/$lab ]] || "$here/run.sh" down "$lab"
    done
    rm -rf "$folder"
    exit "$result"
}

# Reads /proc and counters before and after; asks no node anything.
MEASURE='
import collections, json, os, re, subprocess, sys, time
labs_folder, minutes, form, beacon, *labs = sys.argv[1:]
tick = os.sysconf("SC_CLK_TCK")
SLOT, BEFORE, BEHIND, QUIET = 3600, 600, 660, 600
KINDS = ("sent_udp", "received_udp", "sent_tcp", "received_tcp")
def counters(lab, host):
    said = subprocess.run(["ip", "netns", "exec", f"{lab}-{host}", "nft", "-j", "list", "counters", "table", "inet", "idle"],
                          capture_output=True, text=True, check=True).stdout
    found = [item["counter"] for item in json.loads(said)["nftables"] if "counter" in item]
    return {item["name"]: (item["packets"], item["bytes"]) for item in found}
def on_the_wire(counters):
    return sum(size for _, size in counters.values())
def everywhere():
    return {node: on_the_wire(counters(*node)) for node in nodes}
def number(text, name):
    return int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1])
def threads(pid):
    found = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        name = open(f"/proc/{pid}/task/{thread}/comm").read().strip()
        status = open(f"/proc/{pid}/task/{thread}/status").read()
        found[f"{name}/{thread}"] = number(status, "voluntary_ctxt_switches")
    return found
def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])) / tick
def look(lab, host):
    place = f"{labs_folder}/{lab}/{host}"
    pid = int(open(f"{place}/state/lock").read())
    status = open(f"/proc/{pid}/status").read()
    return {"pid": pid, "threads": threads(pid), "cpu": cpu(pid), "rss": number(status, "VmRSS"),
            "peak": number(status, "VmHWM"), "log": os.path.getsize(f"{place}/node.log"), "counters": counters(lab, host)}
nodes = [(lab, line.strip()) for lab in labs for line in open(f"{labs_folder}/{lab}/nodes")]
before = {node: look(*node) for node in nodes}
start, end = time.time(), time.time() + float(minutes) * 60
samples = {start: everywhere()}
if beacon == "yes":
    change = -(-(start + BEFORE) // SLOT) * SLOT
    end = max(end, change + BEHIND + QUIET)
# One sample a minute tells when something went; those about the change are at its very bounds.
times = [start + 60 * (minute + 1) for minute in range(int((end - start) // 60))] + [end]
times += [change - BEFORE, change + BEHIND] if beacon == "yes" else []
for at in sorted(times):
    time.sleep(max(0, at - time.time()))
    samples[at] = everywhere()
after = {node: look(*node) for node in nodes}
minutes = round((end - start) / 60, 1)
def an_hour(node):
    during = samples[change + BEHIND][node] - samples[change - BEFORE][node]
    around = samples[end][node] - samples[start][node] - during
    quiet = end - start - BEFORE - BEHIND
    return during, round(during + around * (SLOT - BEFORE - BEHIND) / quiet)
def by_minute(node):
    found, spent = sorted(samples), collections.Counter()
    for early, late in zip(found, found[1:]):
        spent[int((early - start) // 60)] += samples[late][node] - samples[early][node]
    return {minute: size for minute, size in spent.items() if size}
rows = []
for lab, host in nodes:
    old, new = before[lab, host], after[lab, host]
    if old["pid"] != new["pid"]:
        sys.exit(f"the node on {host} of {lab} is another process than before")
    with open(f"{labs_folder}/{lab}/{host}/node.log", "rb") as log:
        log.seek(old["log"])
        lines = re.sub(rb"\x1b\[[0-9;]*m", b"", log.read()).decode(errors="replace").splitlines()
    why = collections.Counter(match[1] for line in lines if (match := re.search(r" due .*?why=\"?([a-z ]+)", line)))
    wakes = {name: count - old["threads"].get(name, 0) for name, count in new["threads"].items()}
    row = {"peers": int(lab.rsplit("-", 1)[1]), "host": host, "minutes": minutes, "rss_mb": round(new["rss"] / 1024, 1),
           "rss_peak_mb": round(new["peak"] / 1024, 1), "cpu_s": round(new["cpu"] - old["cpu"], 2),
           "wake_ups": sum(wakes.values()), "wake_ups_by_thread": wakes,
           "keepers": sum("a keeper of the index starts" in line for line in lines), "due": dict(why)}
    for name in KINDS:
        packets, size = (late - early for late, early in zip(new["counters"][name], old["counters"][name]))
        row[f"{name}_packets"], row[f"{name}_bytes"] = packets, size
    row["by_minute"] = by_minute((lab, host))
    if beacon == "yes":
        row["bytes_at_the_change"], row["bytes_an_hour"] = an_hour((lab, host))
    rows.append(row)
if form == "json":
    for row in rows:
        print(json.dumps(row))
else:
    columns = ["peers", "host", "minutes", "rss_mb", "rss_peak_mb", "cpu_s", "wake_ups", "keepers"]
    columns += [f"{kind}_{what}" for kind in KINDS for what in ("packets", "bytes")]
    columns += ["bytes_at_the_change", "bytes_an_hour"] if beacon == "yes" else []
    print("| " + " | ".join(columns + ["by thread", "due", "bytes by minute"]) + " |")
    print("|" + "---|" * (len(columns) + 3))
    for row in rows:
        lists = [", ".join(f"{name} {count}" for name, count in row[key].items() if count) or "-" for key in ("wake_ups_by_thread", "due", "by_minute")]
        print("| " + " | ".join([str(row[key]) for key in columns] + lists) + " |")
'

main "$@"
