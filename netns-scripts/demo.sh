#!/usr/bin/env bash
# netns-scripts/demo.sh: the walk-through of the README, on one machine, with the real binary.
#
#      a  192.168.1.2 ── node ──┐ LAN ── NAT 11.0.1.2 ──┐        two members of the VPI "home"; at the end, b is removed
#      a2 192.168.1.3 ──────────┘                       │        a stranger on a's LAN
#      b  192.168.2.2 ── node ─── LAN ── NAT 11.0.2.2 ──┤ internet
#      p1, p2, p3  11.0.201.2 … ── beacon ──────────────┘        by which a and b find each other
#
# The hosts know nothing of each other but a token; the address of a in it leads b nowhere.
#
#   demo.sh           builds, runs, checks every value it prints, takes the lab down; exit 1 if one is not as expected
#   demo.sh --keep    leaves the lab up, with both members, and says how to enter it
#
# VPI_BIN names another binary, and skips the build. Needs root for the lab (asks sudo), not for the build.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

readonly WEB=8080 PRIVATE=8081 MIB=64
readonly BEACONS=(p1 p2 p3)
declare -rA INSIDE=([a]=192.168.1.2 [b]=192.168.2.2) OUTSIDE=([a]=11.0.1.2 [b]=11.0.2.2)
keep=no

# --- the steps ----------------------------------------------------------------------------------------

main() {
    case $* in
        '') ;;
        --keep) keep=yes ;;
        *) fail "knows only --keep" ;;
    esac
    build
    ((EUID == 0)) || become_root "$@"
    need_tools ip nft ping curl python3 awk
    need_tun
    python=$(PATH=/usr/bin:$PATH command -v python3)
    start=$EPOCHREALTIME
    trap finish EXIT
    lay_out
    three_beacons
    two_nodes
    found_and_join
    how_they_met
    web
    ping_both
    transfer
    exposure
    status
    stranger
    [[ $keep == yes ]] || removal
    still_running
}

build() {
    if [[ -z ${VPI_BIN:-} ]]; then
        need_cargo
        echo "Building the node: cargo build --release -p node"
        (cd "$here/.." && cargo build --release -p node)
        VPI_BIN=$(target_folder)/release/vpi
    fi
    VPI_BIN=$(realpath "$VPI_BIN")
    export VPI_BIN
}

become_root() {
    command -v sudo >/dev/null || need_root "the lab"
    echo "The lab needs root: sudo $0 $*"
    exec sudo VPI_BIN="$VPI_BIN" "$0" "$@"
}

lay_out() {
    lab=demo$$
    export LAB_TRACE=/dev/null
    "$here/run.sh" up nats --name "$lab" --site port-preserving,hosts=2 --site port-preserving --hosts "${#BEACONS[@]}" >/dev/null
    files=$LABS/$lab
    tell "an internet: a at ${INSIDE[a]} behind the NAT ${OUTSIDE[a]}, b at ${INSIDE[b]} behind ${OUTSIDE[b]}, ${#BEACONS[*]} public hosts"
    check "b: ping ${INSIDE[a]}" "$(pings b "${INSIDE[a]}" 1)" '^0 of 1'
    check "b: ping ${OUTSIDE[a]}, the NAT itself" "$(pings b "${OUTSIDE[a]}" 1)" '^1 of 1'
}

three_beacons() {
    local host since=$EPOCHREALTIME peer=()
    for host in "${BEACONS[@]}"; do
        background "$host" beacon "$VPI_BIN" beacon "${peer[@]}"
        pids[$host]=$!
        wait_for 10 "the ready line of $host" grep -q ready "$files/$host/beacon.out" || differs "the beacon of $host is not ready"
        beacons+=(--beacon "$(grep -m 1 /tcp/ "$files/$host/beacon.out")")
        peer=(--peer "${beacons[1]}")
    done
    tell "vpi beacon on ${BEACONS[*]}: ready after $(seconds_since "$since") s"
}

two_nodes() {
    local host since=$EPOCHREALTIME
    for host in a b; do
        background "$host" node "$VPI_BIN" up
        pids[$host]=$!
    done
    for host in a b; do
        wait_for 5 "the ready line of $host" grep -qi ready "$files/$host/node.out" ||
            differs "the node of $host is not ready"
    done
    tell "vpi up on a and on b: ready after $(seconds_since "$since") s"
}

found_and_join() {
    local answer token since
    answer=$(on a 5 "$VPI_BIN" create home --name a "${beacons[@]}" --json) || differs "vpi create failed"
    own_alias[a]=$(pick alias <<<"$answer")
    tell "a: vpi create home --beacon …   own alias ${own_alias[a]}"
    token=$(on a 5 "$VPI_BIN" invite home --json | pick token) || differs "vpi invite failed"
    tell "a: vpi invite home              a token of ${#token} characters"
    since=$EPOCHREALTIME
    answer=$(on b 30 "$VPI_BIN" join --name b --json <<<"$token" 2>"$files/b/join.log") || differs "vpi join failed"
    check "b: vpi join  (reads it)" "$(head -n 1 "$files/b/join.log")" "^asking at ${INSIDE[a]}:[0-9]+, what ${#BEACONS[*]} beacons know"
    own_alias[b]=$(pick alias <<<"$answer")
    tell "   joined                       own alias ${own_alias[b]}, after $(seconds_since "$since") s"
    alias_of a b
    alias_of b a
}

# alias_of HOST PEER: waits until HOST knows an alias for PEER.
alias_of() {
    wait_for 5 "$1 to know $2" member "$1" "$2" alias || differs "$1 does not see $2 as a member"
    peer_alias[$1]=$(member "$1" "$2" alias)
    check "$1 knows $2 by a loopback alias" "${peer_alias[$1]}" '^127\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\.'
}

# Each says how it found the other. Both met by way of a beacon; the one that leads found the path through the NATs, and
# the other one followed.
how_they_met() {
    local host peer answer found=''
    for host in a b; do
        peer=$(other "$host")
        wait_for 20 "a direct path from $host to $peer" direct "$host" "$peer" || differs "$host has no direct path to $peer"
    done
    for host in a b; do
        peer=$(other "$host")
        tell "$host: vpi why $peer"
        on "$host" 5 "$VPI_BIN" why "$peer" | sed 's/^/     /'
        answer=$(on "$host" 5 "$VPI_BIN" why "$peer" --json) || differs "$host: vpi why failed"
        [[ $answer == *'"answered by way of its beacon"'* ]] || differs "$host did not meet $peer by way of a beacon"
        [[ $answer == *"\"a better path was found: at ${OUTSIDE[$peer]}:"* ]] && found+=$host
    done
    [[ -n $found ]] || differs "neither found the path through the NATs"
}

direct() {
    [[ $(member "$1" "$2" state path.kind path.remote) == "direct host ${OUTSIDE[$2]}:"* ]]
}

web() {
    local host peer answer
    for host in a b; do
        mkdir "$files/$host/www"
        echo "hello from $host" >"$files/$host/www/index.html"
        background "$host" web "$python" -u -m http.server --bind 0.0.0.0 --directory "$files/$host/www" "$WEB"
        pids[$host-web]=$!
    done
    for host in a b; do
        wait_for 5 "the web server of $host" on "$host" 2 curl -sf "http://127.0.0.1:$WEB/" || differs "no web server"
    done
    for host in a b; do
        peer=$(other "$host")
        answer=$(on "$host" 6 curl -sS --max-time 5 "http://${peer_alias[$host]}:$WEB/") || true
        check "$host: curl http://${peer_alias[$host]}:$WEB/" "$answer" "^hello from $peer$"
    done
    answer=$(on a 5 curl -sS "http://127.0.0.1:$WEB/") || true
    check "a's own server on 0.0.0.0:$WEB did not catch it; at 127.0.0.1" "$answer" '^hello from a$'
}

ping_both() {
    local host
    for host in a b; do
        check "$host: ping ${peer_alias[$host]}" "$(pings "$host" "${peer_alias[$host]}" 5)" '^5 of 5, mean RTT .*[0-9] ms$'
    done
}

# pings HOST ADDRESS COUNT: how many of that many pings came back, and how fast.
pings() {
    local answer rtt
    answer=$(on "$1" 10 ping -c "$3" -i 0.2 -W 2 "$2") || true
    rtt=$(sed -n 's|^rtt .* = [^/]*/\([^/]*\)/.*|\1|p' <<<"$answer")
    echo "$(sed -n 's/.* \([0-9]*\) received.*/\1/p' <<<"$answer") of $3${rtt:+, mean RTT $rtt ms}"
}

transfer() {
    local took sent received
    head -c "${MIB}M" /dev/urandom >"$files/b/www/blob"
    took=$(on a 25 curl -sS --max-time 20 --speed-time 3 --speed-limit 1000 -o "$files/a/blob" -w '%{size_download} bytes in %{time_total} s' \
        "http://${peer_alias[a]}:$WEB/blob") || true
    check "b → a: $MIB MiB over TCP" "$took" "^$((MIB << 20)) bytes in "
    sent=$(sha256sum <"$files/b/www/blob")
    received=$(sha256sum <"$files/a/blob")
    check "SHA-256 of both ends equal" "${received%% *}" "^${sent%% *}$"
}

exposure() {
    local url=http://${peer_alias[a]}:$PRIVATE/ code=0
    background b private "$python" -u -m http.server --bind 127.0.0.1 --directory "$files/b/www" "$PRIVATE"
    pids[b-private]=$!
    wait_for 5 "the private server of b" on b 2 curl -sf "http://127.0.0.1:$PRIVATE/" || differs "no private server"
    on a 6 curl -s --max-time 5 "$url" >/dev/null || code=$?
    check "b serves on 127.0.0.1:$PRIVATE only; a: curl $url is refused, exit code" "$code" '^7$'
    on b 5 "$VPI_BIN" expose home "tcp/$PRIVATE" >/dev/null || differs "vpi expose failed"
    wait_for 3 "a to reach what b exposed" on a 3 curl -sf --max-time 2 "$url" || differs "the exposed port is closed"
    check "b: vpi expose home tcp/$PRIVATE; a: the same curl" "$(on a 6 curl -sS --max-time 5 "$url")" '^hello from b$'
    check "   and the server sees that it is a" "$(tail -n 1 "$files/b/private.log")" "^${peer_alias[b]//./\\.} "
}

status() {
    local host peer state kind remote rtt received sent
    for host in a b; do
        peer=$(other "$host")
        read -r state kind remote rtt received sent < <(
            member "$host" "$peer" state path.kind path.remote path.rtt_ms rx_bytes tx_bytes
        ) || differs "$host: vpi status says too little about $peer"
        check "$host: vpi status" "$peer $state, path $kind to $remote, RTT $rtt ms, bytes in $received, out $sent" \
            "^$peer direct, path host to ${OUTSIDE[$peer]//./\\.}:[0-9]+, RTT [0-9.]+ ms, bytes in [0-9]+, out [0-9]+$"
        total[$host]=$received
    done
    ((total[a] >= MIB << 20)) || differs "a received $MIB MiB through the tunnel, but counts ${total[a]} bytes"
}

stranger() {
    local port answers
    port=$(on a 5 "$VPI_BIN" status --json | pick vpis.0.port) || differs "vpi status failed"
    answers=$(on a2 10 "$python" -c "$PROBES" "${INSIDE[a]}" "$port") || true
    check "a2, no member, sends a's node 200 datagrams; answers" "$answers" '^0$'
    answers=$(on a2 10 "$python" -c "$PROBES" "${INSIDE[a]}" 9) || true
    check "   the same to a closed port, so that an answer would be seen" "$answers" '^[1-9][0-9]*$'
}

removal() {
    local code=0
    on a 5 "$VPI_BIN" remove home b --reason lost >/dev/null || differs "vpi remove failed"
    check "a: vpi remove home b; a shows it as" "$(member a b state)" '^removed$'
    wait_for 3 "b to be told" notice || differs "b is not told of its removal"
    check "b: vpi status" "$(notice)" 'says that this device was removed'
    on b 4 curl -s --max-time 1 "http://${peer_alias[b]}:$WEB/" >/dev/null || code=$?
    check "b: curl http://${peer_alias[b]}:$WEB/ has no answer, exit code" "$code" '^28$'
}

notice() {
    on b 5 "$VPI_BIN" status --json | pick vpis.0.notices.0
}

still_running() {
    local process
    for process in "${!pids[@]}"; do
        kill -0 "${pids[$process]}" 2>/dev/null || differs "$process ended in the middle"
    done
    if [[ $keep == no ]]; then
        for process in a b "${BEACONS[@]}"; do
            kill -TERM "${pids[$process]}"
        done
        for process in a b "${BEACONS[@]}"; do
            wait_for 5 "the node of $process to stop" gone "${pids[$process]}" || differs "SIGTERM did not stop $process"
        done
        tell "nodes and beacons stopped at SIGTERM"
    fi
}

# --- checking and telling -----------------------------------------------------------------------------

declare -A pids own_alias peer_alias total
declare -a beacons=()

tell() {
    printf ' ✔ %s\n' "$*"
}

# check WHAT VALUE PATTERN: tells the value, or ends the demo if it is not as expected.
check() {
    [[ $2 =~ $3 ]] || differs "$1: ${2:-nothing}   (expected: $3)"
    tell "$1: $2"
}

# differs SENTENCE: ends the demo.
differs() {
    printf ' ✘ %s\n' "$*" >&2
    exit 1
}

finish() {
    local result=$? host
    if ((result)); then
        for host in a b; do
            printf '\n--- the last lines of the node of %s ---\n' "$host"
            tail -n 15 "$files/$host/node.out" "$files/$host/node.log" 2>/dev/null || true
            on "$host" 5 "$VPI_BIN" why "$(other "$host")" 2>&1 || true
        done
        printf '\nThe demo failed after %s s.\n' "$(seconds_since "$start")"
    else
        printf '\nEverything as expected, in %s s.\n' "$(seconds_since "$start")"
    fi
    if [[ $keep == yes ]]; then
        how_to_enter
    else
        "$here/run.sh" down "$lab"
    fi
    exit "$result"
}

how_to_enter() {
    local sudo=''
    [[ -z ${SUDO_USER:-} ]] || sudo='sudo '
    for host in a b a2 p1; do
        printf 'Enter %-9s %s\n' "$host:" "$sudo$here/run.sh exec $lab $host"
    done
    echo "   on a:        $VPI_BIN status;  $VPI_BIN why b;  curl http://${peer_alias[a]:-ALIAS}:$WEB/;  $VPI_BIN remove home b"
    echo "Logs of the nodes: $files/a/node.log, $files/b/node.log"
    echo "Take it down:   $sudo$here/run.sh down $lab"
}

# on HOST SECONDS COMMAND...: runs a command on a host, with a deadline.
on() {
    local host=$1 seconds=$2
    shift 2
    inside "$lab" "$host" timeout "$seconds" "$@"
}

# background HOST NAME COMMAND...: starts a process on a host; its output goes to NAME.out and NAME.log there.
background() {
    local host=$1 name=$2
    shift 2
    setsid "$here/run.sh" exec "$lab" "$host" "$@" \
        </dev/null >"$files/$host/$name.out" 2>"$files/$host/$name.log" &
    disown
}

# member HOST NAME FIELD...: what the node of HOST says about a member, in one line.
member() {
    local host=$1 name=$2
    shift 2
    on "$host" 5 "$VPI_BIN" status --json | pick "${@/#/vpis.0.members.name=$name.}"
}

# pick PATH...: values of the JSON on standard input: keys, indices, or KEY=VALUE for the item that has it.
pick() {
    "$python" -c "$PICK" "$@"
}

other() {
    [[ $1 == a ]] && echo b || echo a
}

gone() {
    ! kill -0 "$1" 2>/dev/null
}

PICK='
import json, sys
facts, found = json.load(sys.stdin), []
for path in sys.argv[1:]:
    value = facts
    for part in path.split("."):
        if isinstance(value, dict):
            value = value[part]
        elif "=" in part:
            key, wanted = part.split("=")
            value = next(item for item in value if item[key] == wanted)
        else:
            value = value[int(part)]
    if value is None:
        sys.exit(1)
    found.append(str(value))
print(" ".join(found))
'
# What a stranger may try: nothing, noise, the first bytes of each of the node's own forms, STUN, WireGuard, QUIC.
PROBES='
import os, socket, sys
probes = [b"", os.urandom(64), b"\x80\0\0\0" + os.urandom(60), b"\x81\1" + os.urandom(300), b"\x82\0\0\0" + os.urandom(90),
    b"\0\1\0\0\x21\x12\xa4\x42" + os.urandom(12), b"\1\0\0\0" + os.urandom(144), b"\xc0\0\0\0\1" + os.urandom(1195)]
stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
stranger.connect((sys.argv[1], int(sys.argv[2])))
answers = 0
for number in range(200 + 10):
    stranger.settimeout(0.001 if number < 200 else 0.05)
    try:
        if number < 200:
            stranger.send(probes[number % len(probes)])
        stranger.recv(2048)
        answers += 1
    except TimeoutError:
        pass
    except ConnectionRefusedError:
        answers += 1
print(answers)
'

main "$@"
