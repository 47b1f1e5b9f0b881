#!/usr/bin/env bash
# netns-scripts/bench.sh: the tunnel's speed beside others', on one machine, in interleaved rounds.
#
#      a  10.77.0.1  node ──── cable ──── node  10.77.0.2  b        iperf3 and ping, a → b, through the tunnel
#
#   bench.sh [OPTION...] [CONTENDER...]
#   bench.sh --peers                     fetches wireguard-go and nebula, as new as Debian has them, and says what is missing
#   bench.sh --profile [OPTION...] [CONTENDER]    where the time of one stream goes: perf, as text, with date and commit
#   bench.sh --flood [OPTION...]         one stream while a third host sends 100,000 a second to the port: junk, replays, forgeries
#   bench.sh --relayed [OPTION...]       one stream straight and by way of a third member, in turns
#   bench.sh --wan [OPTION...]           one stream over a bad link, bare and through the tunnel, in turns: 5 % loss, 100 ± 50 ms, reordering
#   bench.sh --crowd N [OPTION...]       one node with N peers, a stream to each: sum, fairness, memory
#   bench.sh --rekeys [OPTION...]        one stream for --seconds, over a rekey each two minutes: what is lost, and memory
#
# CONTENDER (default: bare, ours, and all others that are found):
#   bare                the cable without a tunnel
#   ours                the binary of this tree; ours-aes256gcm and ours-chacha20 with that cipher
#   NAME=BINARY         another vpi binary, such as the one of the last commit
#   wireguard-go, boringtun, gotatun, nebula
#
#   --rounds N          of each contender (3)
#   --seconds S         of each measurement (5)
#   --under LIST        offload,gro,nooffload: the cable with all offloads, with those of software, with none (offload)
#   --loss PERCENT      drops datagrams at random, at both ends; needs --under nooffload
#   --rate RATE         limits the cable (TBF, 3 ms of queue), such as 1gbit: RTT under load shows whose queues are long
#   --only LIST         tcp,udp,rtt (all three)
#   --settings LINE     adds a line to the settings file of ours, such as rekey_after = 10
#   --to FILE           appends one JSON line a round
#   --json              prints the medians and ratios as JSON instead of tables
#
# Both ends share this machine's processors: compare rows with each other, never with other machines. Needs root.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=bench/contenders.sh
. "$here/bench/contenders.sh"

rounds=3 seconds=5 underlays=offload loss=0 rate=0 only=tcp,udp,rtt results='' form=table do=rounds
contenders=() settings=()

main() {
    while (($#)); do
        case $1 in
            --rounds) rounds=${2:?} && shift ;;
            --seconds) seconds=${2:?} && shift ;;
            --under) underlays=${2:?} && shift ;;
            --loss) loss=${2:?} && shift ;;
            --rate) rate=${2:?} && shift ;;
            --only) only=${2:?} && shift ;;
            --settings) settings+=("${2:?}") && shift ;;
            --to) results=${2:?} && shift ;;
            --json) form=json ;;
            --peers) do=peers ;;
            --profile) do=profile ;;
            --flood) do=flood ;;
            --relayed) do=relayed ;;
            --wan) do=wan ;;
            --crowd) do=crowd peers=${2:?} && shift ;;
            --rekeys) do=rekeys ;;
            -*) fail "knows no option $1" ;;
            *) contenders+=("$1") ;;
        esac
        shift
    done
    need_root "the lab"
    if [[ $do == peers ]]; then
        get_peers
        exit
    fi
    [[ $do == rounds ]] || contenders=("${contenders[0]:-ours}")
    [[ $do != flood ]] || need_tools nft ethtool
    [[ $do != rekeys && $do != relayed ]] || need_tools nft
    ((${#contenders[@]})) || mapfile -t contenders < <(found_contenders)
    need_tools ip ping iperf3 python3
    [[ $underlays == offload ]] || need_tools ethtool
    [[ $loss == 0 ]] || need_tools nft
    need_tun
    lab=bench$$
    export LAB_TRACE=/dev/null PYTHONDONTWRITEBYTECODE=1
    folder=$(mktemp -d)
    trap finish EXIT
    case $do in
        rounds) all_rounds ;;
        profile) profile ;;
        flood) flood ;;
        relayed) relayed ;;
        wan) wan ;;
        crowd) crowd ;;
        rekeys) rekeys ;;
    esac
}

all_rounds() {
    local round contender under
    for ((round = 1; round <= rounds; round++)); do
        for under in ${underlays//,/ }; do
            for contender in "${contenders[@]}"; do
                up "$contender" "$under"
                "$here/bench/measure.py" --lab "$lab" --target "$target" --seconds "$seconds" --only "$only" \
                    "name=${contender%%=*}" "round=$round" "under=$under" "loss=$loss" "rate=$rate" >>"$folder/results"
                tail -n 1 "$folder/results" | tee -a "${results:-/dev/null}" >&2
                "$here/run.sh" down "$lab"
            done
        done
    done
    "$here/bench/report.py" "$form" "$folder/results"
}

# up CONTENDER UNDERLAY: a lab of its own, from the cable to the tunnel; `target` is b's address in it.
up() {
    "$here/run.sh" up cable --name "$lab" >/dev/null
    cable "$2"
    put_up "$1"
}

# cable UNDERLAY: takes offloads away at both ends, as a network would, and impairs the cable as was asked for.
cable() {
    local host
    for host in a b; do
        case $1 in
            offload) ;;
            gro) on "$host" ethtool -K eth0 tso off gso on gro on tx-udp-segmentation off ;;
            nooffload) on "$host" ethtool -K eth0 tso off gso off gro off tx-udp-segmentation off ;;
            *) fail "no underlay is called $1; there are offload, gro and nooffload" ;;
        esac >/dev/null 2>&1
        [[ $rate == 0 ]] || on "$host" tc qdisc add dev eth0 root tbf rate "$rate" burst 64kb latency 3ms
        [[ $loss == 0 ]] || on "$host" nft "table inet bench { chain c {
            type filter hook prerouting priority -300;
            iifname eth0 numgen random mod 100000 < $(python3 -c "print(round($loss * 1000))") drop; }; }"
    done
}

# profile: one stream through ours, every function by its name, both ends and the kernel.
profile() {
    command -v perf >/dev/null || fail "perf is missing (Debian: apt-get install linux-perf)"
    up "${contenders[0]}" "${underlays%%,*}"
    on a ping -c 1 -W 5 "$target" >/dev/null
    on b iperf3 -s -1 >/dev/null &
    sleep 0.5
    on a iperf3 -c "$target" -t "$seconds" >"$folder/iperf" &
    sleep 1
    perf record -q -F 999 -a -o "$folder/perf" -- sleep $((seconds - 2)) 2>"$folder/said" ||
        fail "perf record: $(<"$folder/said")"
    wait
    "$here/bench/profile.sh" "$folder/perf" "$folder/iperf" "${underlays%%,*}" >"$folder/profile"
    cat "$folder/profile"
    [[ -z $results ]] || cp "$folder/profile" "$results"
}

# flood: a and b use the tunnel, c floods; its network card cuts nothing, so that datagrams come one by one.
flood() {
    local port
    "$here/run.sh" up lan --name "$lab" --hosts 3 >/dev/null
    put_up "${contenders[0]}"
    on c ethtool -K eth0 tso off gso off tx-udp-segmentation off >/dev/null 2>&1
    port=$(on b "$binary" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["vpis"][0]["port"])')
    "$here/bench/flood.py" rounds --lab "$lab" --target "$target" --port "$port" --folder "$folder" \
        --rounds "$rounds" --seconds "$seconds"
}

# relayed: a, b and c on one switch; a and b drop what comes straight from each other in every second measurement, so that
# c passes on.
relayed() {
    local round name host drop
    "$here/run.sh" up lan --name "$lab" --hosts 3 >/dev/null
    settings+=("relay = true")
    put_up "${contenders[0]}"
    background c "$binary" up --config "$folder/settings.toml"
    wait_for 10 "the ready line of c" grep -qi ready "$LABS/$lab/c/node.out"
    on c "$binary" join --name c --json <<<"$(on a "$binary" invite home --json 2>/dev/null |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])')" >/dev/null 2>&1
    for ((round = 1; round <= rounds; round++)); do
        for name in direct relayed; do
            for host in a b; do
                drop=$([[ $host == a ]] && echo 10.77.0.2 || echo 10.77.0.1)
                on "$host" nft "add table inet bench; delete table inet bench; table inet bench { chain c {
                    type filter hook input priority 0; $([[ $name == direct ]] || echo "ip saddr $drop drop"); }; }"
            done
            wait_for 60 "a path that is $name" is_path "$name" || fail "$(on a "$binary" why b)"
            "$here/bench/measure.py" --lab "$lab" --target "$target" --seconds "$seconds" --only tcp \
                "name=${name/direct/ours}" "round=$round" under=offload loss=0 rate=0 >>"$folder/results"
            tail -n 1 "$folder/results" | tee -a "${results:-/dev/null}" >&2
        done
    done
    "$here/bench/report.py" "$form" "$folder/results"
}

# wan: a and b two routers apart, with half of the trouble at each; plain TCP and the tunnel over the same link, in turns. As
# long as one stream is slowed down by loss alone, nothing of it is this machine's doing.
wan() {
    local round name inner
    "$here/run.sh" up internet --name "$lab" --hosts 2 --delay 25ms --jitter 50ms --loss 2.5% --reorder 5% >/dev/null
    put_up "${contenders[0]}"
    inner=$target
    for ((round = 1; round <= rounds; round++)); do
        for name in bare ours; do
            target=$([[ $name == bare ]] && echo 203.0.113.18 || echo "$inner")
            "$here/bench/stream.py" --lab "$lab" --target "$target" --seconds "$seconds" \
                "name=$name" "round=$round" >>"$folder/results"
            tail -n 1 "$folder/results" | tee -a "${results:-/dev/null}" >&2
        done
    done
    "$here/bench/stream.py" --report "$folder/results"
}

# is_path STATE: whether a says that b is reached so; a packet keeps it looking for better.
is_path() {
    on a ping -c 1 -W 1 "$target"
    on a "$binary" status --json | python3 -c '
import json, sys
members = json.load(sys.stdin)["vpis"][0]["members"]
sys.exit(next(member["state"] for member in members if member["name"] == "b") != sys.argv[1])' "$1"
}

crowd() {
    "$here/run.sh" up crowd --name "$lab" --hosts $((peers + 1)) >/dev/null
    "$here/bench/crowd.py" --lab "$lab" --binary "$(binary_of "${contenders[0]}")" --peers "$peers" \
        --rounds "$rounds" --seconds "$seconds"
}

rekeys() {
    up "${contenders[0]}" "${underlays%%,*}"
    "$here/bench/rekeys.py" --lab "$lab" --target "$target" --back "$(alias_on b a)" --binary "$binary" --seconds "$seconds"
}

on() {
    local host=$1
    shift
    "$here/run.sh" exec "$lab" "$host" timeout 30 "$@"
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

main "$@"
