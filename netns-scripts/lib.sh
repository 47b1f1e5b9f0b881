# shellcheck shell=bash
# netns-scripts/lib.sh: networks of this machine's own making, from plain namespaces, veth pairs and bridges.
#
# Sourced by the scripts beside it, never run. A lab is one network. Its name carries a process id, each of its
# namespaces is called LAB-PLACE, and what it leaves on disk lies in /run/vpi-labs/LAB:
#
#   /run/vpi-labs/LAB/namespaces     one line a namespace that the lab made
#   /run/vpi-labs/LAB/hosts          one line a host: name, namespace, address (nats: and the one that the internet sees)
#   /run/vpi-labs/LAB/HOST/state     the state folder of that host's node
#   /run/vpi-labs/LAB/HOST/node.log  what its node says
#
# Nothing outside the lab's namespaces and that folder is touched.

set -euo pipefail

LABS=/run/vpi-labs

# --- telling ------------------------------------------------------------------------------------------

# fail SENTENCE: says why on standard error and ends the script.
fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# echoed COMMAND...: runs a command that changes the machine, and shows it first (on LAB_TRACE, a file).
echoed() {
    printf '+ %s\n' "$*" >>"${LAB_TRACE:-/dev/stderr}"
    "$@"
}

# seconds_since START: the time passed since START (an $EPOCHREALTIME), as "1.2".
seconds_since() {
    local now=$EPOCHREALTIME
    local tenths=$(((${now/[.,]/} - ${1/[.,]/}) / 100000))
    printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# wait_for SECONDS WHAT COMMAND...: repeats COMMAND until it succeeds; after SECONDS fails and names WHAT.
wait_for() {
    local limit=$1 what=$2 start=$EPOCHREALTIME
    shift 2
    until "$@" >/dev/null 2>&1; do
        local now=$EPOCHREALTIME
        if (((${now/[.,]/} - ${start/[.,]/}) > limit * 1000000)); then
            printf 'waited %s s in vain for %s\n' "$limit" "$what" >&2
            return 1
        fi
        sleep 0.05
    done
}

# --- what must be there -------------------------------------------------------------------------------

# need_root WHAT: ends the script unless it runs as root.
need_root() {
    ((EUID == 0)) || fail "$1 needs root; run it with sudo"
}

# debian_package TOOL: the Debian package that holds a command.
debian_package() {
    case $1 in
        ip) echo iproute2 ;;
        awk) echo mawk ;;
        nft) echo nftables ;;
        wg) echo wireguard-tools ;;
        ping) echo iputils-ping ;;
        setpriv | unshare) echo util-linux ;;
        pip3) echo python3-pip ;;
        cc) echo build-essential ;;
        gcore) echo gdb ;;
        miniupnpd) echo miniupnpd-nftables ;;
        psql) echo postgresql-client ;;
        redis-cli) echo redis-tools ;;
        ssh | ssh-keygen) echo openssh-client ;;
        *) echo "$1" ;;
    esac
}

# need_tools TOOL...: sees to it that every command is there, with apt-get where that is possible.
need_tools() {
    local tool missing=() packages=()
    for tool in "$@"; do
        command -v "$tool" >/dev/null || {
            missing+=("$tool")
            packages+=("$(debian_package "$tool")")
        }
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        fail "missing: ${missing[*]}; install the packages that hold them (Debian: apt-get install ${packages[*]})"
    fi
    echoed apt-get update -qq
    DEBIAN_FRONTEND=noninteractive echoed apt-get install -y -qq --no-install-recommends "${packages[@]}" \
        >/dev/null
    for tool in "${missing[@]}"; do
        command -v "$tool" >/dev/null || fail "$tool is still missing after installing $(debian_package "$tool")"
    done
}

# need_servers: sees to it that the servers of others are there that scenarios start for themselves: sshd, redis,
# PostgreSQL and miniupnpd. Debian would start each one for the machine when it is installed; that is not wanted, and a policy-rc.d
# (invoke-rc.d(8)) keeps it from doing so for as long as apt-get runs.
need_servers() {
    local packages=() policy=/usr/sbin/policy-rc.d is_ours=no
    [[ -x /usr/sbin/sshd ]] || packages+=(openssh-server)
    command -v redis-server >/dev/null || packages+=(redis-server)
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || packages+=(postgresql)
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || packages+=(faketime)
    command -v miniupnpd >/dev/null || packages+=(miniupnpd-nftables)
    ((${#packages[@]})) || return 0
    command -v apt-get >/dev/null || fail "missing; install the Debian packages, or what they hold: ${packages[*]}"
    if [[ ! -e $policy ]]; then
        is_ours=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
    fi
    echoed apt-get update -qq
    DEBIAN_FRONTEND=noninteractive echoed apt-get install -y -qq --no-install-recommends "${packages[@]}" \
        >/dev/null || packages=()
    [[ $is_ours == no ]] || rm "$policy"
    ((${#packages[@]})) || fail "apt-get could not install what the scenarios need"
}

# need_tun: ends the script unless this machine can make TUN devices.
need_tun() {
    [[ -c /dev/net/tun ]] || modprobe tun 2>/dev/null || true
    [[ -c /dev/net/tun ]] || fail "/dev/net/tun is missing; load the module tun, or give the container the device"
}

# need_cargo: ends the script, saying how to get Rust, unless cargo is there.
need_cargo() {
    local env=${CARGO_HOME:-$HOME/.cargo}/env
    # shellcheck disable=SC1090 # written by rustup
    if [[ -r $env ]]; then . "$env"; fi
    command -v cargo >/dev/null || fail "cargo is missing; get Rust with:
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\""
    need_tools cc
}

# target_folder: where cargo builds this tree, absolute.
target_folder() {
    (cd "$(dirname "${BASH_SOURCE[0]}")/.." && realpath -m "${CARGO_TARGET_DIR:-target}")
}

# --- building blocks ----------------------------------------------------------------------------------

# ns LAB PLACE: makes the network namespace LAB-PLACE with its loopback up. It is written down first: nothing that a lab
# made may outlive it, and nothing of another lab may go with it.
ns() {
    local namespace=$1-$2
    [[ ! -e /run/netns/$namespace ]] || fail "a namespace is already called $namespace; choose another name than $1"
    echo "$namespace" >>"$LABS/$1/namespaces"
    echoed ip netns add "$namespace"
    echoed ip -n "$namespace" link set dev lo up
}

# link NS_1 DEVICE_1 NS_2 DEVICE_2: a cable (veth pair) between two namespaces, both ends up.
link() {
    echoed ip link add name "$2" netns "$1" type veth peer name "$4" netns "$3"
    echoed ip -n "$1" link set dev "$2" up
    echoed ip -n "$3" link set dev "$4" up
}

# switch NS DEVICE: a bridge without spanning tree, up.
switch() {
    echoed ip -n "$1" link add name "$2" type bridge stp_state 0 forward_delay 0
    echoed ip -n "$1" link set dev "$2" up
}

# plug NS DEVICE SWITCH: puts a device on a switch of its namespace.
plug() {
    echoed ip -n "$1" link set dev "$2" master "$3"
}

# address NS DEVICE CIDR: gives a device its address.
address() {
    echoed ip -n "$1" address add "$3" dev "$2"
}

# router NS: lets a namespace forward between its devices, from wherever a packet comes.
router() {
    echoed ip netns exec "$1" sysctl -qw \
        net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
}

# batch NS: runs the ip commands on standard input inside a namespace, in one process.
batch() {
    local lines
    lines=$(cat)
    printf '%s\n' "$lines" | sed "s/^/+ ip -n $1 /" >>"${LAB_TRACE:-/dev/stderr}"
    ip -n "$1" -batch - <<<"$lines"
}

# letter NUMBER: what the first 26 hosts are called: a, b, c …
letter() {
    # shellcheck disable=SC2059 # an octal escape made of the number
    printf "\\$(printf '%03o' $((96 + $1)))"
}

# impair LAB HOST [OPTION...]: puts a wan-link with these options into the router of a host of the topology internet
# or of a site of nats, in the place of the one that is there, and prints the statistics of that one. Without options the
# link is clean again.
#
#   access ══ wan0 ── wan-link ── wan1 ══ core      what comes in at access leaves at wan0, what comes at core at wan1
impair() {
    local lab=$1 host=$2 router=$1-$2-edge folder=$LABS/$1/$2 program
    shift 2
    [[ -e /run/netns/$router ]] || fail "lab $lab has no router for a host $host; the topologies internet and nats have them"
    clean_link "$folder"
    (($#)) || return 0
    program=$(target_folder)/release/wan-link
    [[ -x $program ]] || fail "$program is missing: build it with cargo build --release -p tests --bins"
    # Not through a function: $! is to be the process itself.
    printf '+ %s\n' "ip netns exec $router $program wan0 wan1 $* &" >>"${LAB_TRACE:-/dev/stderr}"
    ip netns exec "$router" setsid "$program" wan0 wan1 "$@" </dev/null >"$folder/wan.json" 2>"$folder/wan.log" &
    echo $! >"$folder/wan.pid"
    wait_for 5 "wan-link to forward" grep -q '^forwards' "$folder/wan.log" || fail "$(cat "$folder/wan.log")"
    batch "$router" <<END
route add default dev wan0 table 101
route add default dev wan1 table 102
END
    [[ $(ip -n "$router" rule) == *"lookup 101"* ]] || batch "$router" <<END
rule add iif access lookup 101
rule add iif core lookup 102
END
}

# clean_link FOLDER: ends the wan-link written down in a host's folder, if there is one, and prints its statistics. Its
# devices and their routes go with it: packets pass as if it had never been.
clean_link() {
    local process
    [[ -e $1/wan.pid ]] || return 0
    process=$(<"$1/wan.pid")
    kill -TERM "$process" 2>/dev/null || true
    wait_for 5 "wan-link to end" ended "$process" || fail "wan-link, process $process, does not end"
    cat "$1/wan.json"
    rm "$1/wan.pid" "$1/wan.json" "$1/wan.log"
}

# ended PROCESS: whether a process is gone.
ended() {
    ! kill -0 "$1" 2>/dev/null
}

# --- labs ---------------------------------------------------------------------------------------------

# lab_host LAB HOST NAMESPACE ADDRESS: writes a host down, with a place for its node's state.
lab_host() {
    mkdir -p "$LABS/$1/$2"
    install -d -m 0750 "$LABS/$1/$2/state"
    printf '%s %s %s\n' "$2" "$3" "$4" >>"$LABS/$1/hosts"
}

# lab_namespace LAB HOST: the namespace of a host.
lab_namespace() {
    [[ -r $LABS/$1/hosts ]] || fail "no lab is called $1; netns-scripts/run.sh list shows those that are up"
    awk -v host="$2" '$1 == host { print $2; found = 1 } END { exit !found }' "$LABS/$1/hosts" ||
        fail "lab $1 has no host $2; it has: $(awk '{ printf "%s ", $1 }' "$LABS/$1/hosts")"
}

# inside LAB HOST COMMAND...: runs a command on a host, with VPI_STATE set to that host's state folder.
inside() {
    local lab=$1 host=$2 namespace
    namespace=$(lab_namespace "$lab" "$host")
    shift 2
    VPI_STATE=$LABS/$lab/$host/state ip netns exec "$namespace" "$@"
}

# cleanup LAB: ends whatever runs in the lab's namespaces, removes them and the lab's folder.
cleanup() {
    local folder=${LABS:?}/$1 namespace namespaces=()
    [[ ! -e $folder/namespaces ]] || mapfile -t namespaces < <(sort -u "$folder/namespaces")
    for namespace in "${namespaces[@]}"; do
        [[ ! -e /run/netns/$namespace ]] || remove_ns "$namespace"
    done
    rm -rf "$folder"
}

# remove_ns NAMESPACE: ends whatever runs in a namespace and removes it.
remove_ns() {
    local pids
    pids=$(ip netns pids "$1" 2>/dev/null) || true
    # shellcheck disable=SC2086 # one word a process
    [[ -z $pids ]] || kill -KILL $pids 2>/dev/null || true
    echoed ip netns delete "$1" || true
}
