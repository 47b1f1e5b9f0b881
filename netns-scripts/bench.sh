#!/usr/bin/env bash
# netns-scripts/bench.sh: the tunnel's speed beside others', on one machine, in interleaved rounds.
#
#      a  10.77.0.1 ── node ──┐
#      b  10.77.0.2 ── node ──┤ switch          iperf3 and ping, a → b, through the tunnel
#
#   bench.sh [--rounds N] [--seconds S] [--under offload|gro|nooffload] [--to FILE] CONTENDER...
#
# CONTENDER is `bare` (no tunnel), `ours` (the binary of this tree), NAME=BINARY (another vpi binary, such as the one
# of the last commit), or `wireguard-go` (where it is installed, with wg). --under takes offloads of the cable away, as a
# network would. Prints medians and ratios to the first contender; --to appends one JSON line a round. Both ends share
# this machine's processors: compare rows with each other, never with other machines. Needs root.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

rounds=3 seconds=6 under=offload results=
contenders=()

main() {
    while (($#)); do
        case $1 in
            --rounds) rounds=${2:?} && shift ;;
            --seconds) seconds=${2:?} && shift ;;
            --under) under=${2:?} && shift ;;
            --to) results=${2:?} && shift ;;
            -*) fail "knows no option $1" ;;
            *) contenders+=("$1") ;;
        esac
        shift
    done
    ((${#contenders[@]})) || contenders=(bare ours)
    need_root "the lab"
    need_tools ip ping iperf3 python3
    [[ $under == offload ]] || need_tools ethtool
    need_tun
    lab=bench$$
    export LAB_TRACE=/dev/null
    folder=$(mktemp -d)
    trap finish EXIT
    local round contender
    for ((round = 1; round <= rounds; round++)); do
        for contender in "${contenders[@]}"; do
            one "$contender" "$round"
        done
    done
    python3 -c "$TABLE" "$folder/results" "${contenders[@]%%=*}"
    [[ -z $results ]] || cat "$folder/results" >>"$results"
}

# one CONTENDER ROUND: a lab of its own, from the cable to the figures.
one() {
    local name=${1%%=*} binary=${1#*=} target
    "$here/run.sh" up lan --name "$lab" --hosts 2 >/dev/null
    cable
    case $1 in
        bare) target=10.77.0.2 ;;
        wireguard-go) wireguard ;;
        ours) ours "$(target_folder)/release/vpi" ;;
        *=*) ours "$binary" ;;
        *) fail "no contender is called $1" ;;
    esac
    python3 -c "$MEASURE" "$name" "$2" "$lab" "$target" "$seconds" "$under" | tee -a "$folder/results"
    "$here/run.sh" down "$lab"
}

cable() {
    local host
    for host in a b; do
        case $under in
            offload) ;;
            gro) on "$host" ethtool -K eth0 tso off gso on gro on tx-udp-segmentation off ;;
            nooffload) on "$host" ethtool -K eth0 tso off gso off gro off tx-udp-segmentation off ;;
            *) fail "no underlay is called $under" ;;
        esac >/dev/null 2>&1
    done
}

# ours BINARY: two members of one VPI.
ours() {
    local host token
    for host in a b; do
        background "$host" "$1" up
    done
    for host in a b; do
        wait_for 5 "the ready line of $host" grep -qi ready "$LABS/$lab/$host/node.out"
    done
    on a "$1" create home --name a --json >/dev/null 2>&1
    token=$(on a "$1" invite home --json 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])')
    on b "$1" join --name b --json <<<"$token" >/dev/null 2>&1
    wait_for 5 "a to know b" alias_of_b "$1"
    target=$(alias_of_b "$1")
}

alias_of_b() {
    on a "$1" status --json | python3 -c '
import json, sys
print(next(member["alias"] for member in json.load(sys.stdin)["vpis"][0]["members"] if member["name"] == "b"))'
}

wireguard() {
    need_tools wireguard-go wg
    local host peer number=1
    for host in a b; do
        (umask 077 && wg genkey >"$folder/$host.key")
        background "$host" env LOG_LEVEL=error wireguard-go -f "wg$host"
        wait_for 5 "wireguard-go" on "$host" wg show "wg$host"
    done
    for host in a b; do
        peer=$([[ $host == a ]] && echo b || echo a)
        on "$host" wg set "wg$host" private-key "$folder/$host.key" listen-port 51820 \
            peer "$(wg pubkey <"$folder/$peer.key")" endpoint "10.77.0.$((3 - number)):51820" allowed-ips 0.0.0.0/0
        on "$host" ip address add "10.78.0.$number/24" dev "wg$host"
        on "$host" ip link set "wg$host" mtu 1420 up
        number=2
    done
    target=10.78.0.2
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
    local result=$?
    [[ ! -e $LABS/$lab ]] || "$here/run.sh" down "$lab"
    rm -rf "$folder"
    exit "$result"
}

# One row: every process in the two namespaces before iperf3 starts is the tunnel.
MEASURE='
import json, os, re, statistics, subprocess, sys, time
name, number, lab, target, seconds, under = sys.argv[1:]
tick = os.sysconf("SC_CLK_TCK")
inside = lambda host: ["ip", "netns", "exec", f"{lab}-{host}"]
run = lambda *command, **more: subprocess.run(command, capture_output=True, text=True, **more).stdout
pids = [int(pid) for host in "ab" for pid in run("ip", "netns", "pids", f"{lab}-{host}").split()]
def cpu():
    used = 0
    for pid in pids:
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        used += int(fields[11]) + int(fields[12])
    return used / tick
def rss_mb():
    sizes = [0.0]
    for pid in pids:
        found = re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read())
        sizes.append(int(found[1]) / 1024 if found else 0.0)
    return max(sizes)
def iperf(*more):
    server = subprocess.Popen([*inside("b"), "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    before = cpu()
    end = json.loads(run(*inside("a"), "iperf3", "-c", target, "-J", "-t", seconds, *more))["end"]
    used = cpu() - before
    server.wait(5)
    return end, used
for _ in range(40):
    if subprocess.run([*inside("a"), "ping", "-c1", "-W1", target], capture_output=True).returncode == 0:
        break
time.sleep(1)
row = {"name": name, "round": int(number), "under": under, "rss_idle_mb": round(rss_mb(), 1)}
for key, streams in ("tcp1", "1"), ("tcp4", "4"):
    end, used = iperf("-P", streams)
    received = end["sum_received"]
    row[key + "_gbps"] = round(received["bits_per_second"] / 1e9, 2)
    row[key + "_cpu_s_per_gb"] = round(used / max(received["bytes"] / 1e9, 1e-9), 2)
    row[key + "_retransmits"] = end["sum_sent"]["retransmits"]
end, used = iperf("-u", "-b", "0", "-l", "128")
total = end["sum"]
row["udp_kpps"] = round((total["packets"] - total["lost_packets"]) / total["seconds"] / 1e3, 1)
row["rss_load_mb"] = round(rss_mb(), 1)
times = sorted(float(ms) * 1e3 for ms in re.findall(r"time=([\d.]+)", run(*inside("a"), "ping", "-i", "0.01", "-c", "300", target)))
row["rtt_mean_us"], row["rtt_p99_us"] = round(statistics.mean(times)), round(times[int(len(times) * 0.99) - 1])
print(json.dumps(row), flush=True)
'
TABLE='
import json, statistics, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
names = list(dict.fromkeys(sys.argv[2:]))
columns = [key for key in rows[0] if key not in ("name", "round", "under")]
median = {name: {key: statistics.median(row[key] for row in rows if row["name"] == name) for key in columns} for name in names}
print()
print("| " + " | ".join(["median"] + names) + " |")
print("|" + "---|" * (len(names) + 1))
for key in columns:
    first = median[names[0]][key]
    cells = [f"{median[name][key]:g}" + (f" ({median[name][key] / first:.2f})" if first and name != names[0] else "") for name in names]
    print("| " + " | ".join([key] + cells) + " |")
'

main "$@"
