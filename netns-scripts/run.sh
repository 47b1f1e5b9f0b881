#!/usr/bin/env bash
# netns-scripts/run.sh: puts a network up on this machine, lets you in, takes it down.
#
#   run.sh up TOPOLOGY [--name LAB] [--hosts N] [--site KIND]... [IMPAIRMENT...]    prints the lab's name and its hosts
#   run.sh exec LAB HOST [COMMAND...]                 runs a command on a host (default: a shell)
#   run.sh impair LAB HOST [IMPAIRMENT...]            impairs a host's link, or makes it clean; prints what was forwarded
#   run.sh renew LAB HOST                             a new machine (lan only), with the host's address and state folder
#   run.sh list                                       the labs that are up, and their hosts
#   run.sh down LAB...                                ends what runs in a lab and removes it
#
# On a host, VPI_STATE names its state folder and `vpi` is the binary of this tree. TOPOLOGY is a file in
# topologies/. IMPAIRMENT (internet and nats; see `wan-link --help`): --delay 20ms --jitter 2ms --loss 1% --duplicate 1%
# --reorder 1% --rate 10mbit --queue 64k --seed 7. KIND (nats only): a NAT and its options, as topologies/nats.sh says.
# Needs root.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

usage() {
    sed -n '4,9s/^# \{0,3\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

up() {
    local topology=${1:-} lab=vpi$$ hosts=2 sites=() impairments=() host
    [[ -n $topology ]] || usage
    [[ -r $here/topologies/$topology.sh ]] ||
        fail "no topology is called $topology; there are: $(cd "$here/topologies" && echo *.sh)"
    shift
    while (($#)); do
        case $1 in
            --name) lab=${2:?--name wants a word} ;;
            --hosts) hosts=${2:?--hosts wants a number} ;;
            --site) sites+=("${2:?--site wants the kind of a NAT}") ;;
            --delay | --jitter | --loss | --duplicate | --reorder | --rate | --queue | --seed)
                impairments+=("$1" "${2:?$1 wants a value}")
                ;;
            *) usage ;;
        esac
        shift 2
    done
    [[ $lab =~ ^[a-z0-9][a-z0-9-]{0,40}$ ]] || fail "a lab's name is up to 41 of a-z, 0-9 and -; this is not: $lab"
    [[ ! -e $LABS/$lab ]] || fail "a lab is already called $lab; take it down with: netns-scripts/run.sh down $lab"
    ((${#sites[@]} == 0)) || [[ $topology == nats ]] || fail "only the topology nats has sites"
    need_tools ip awk
    # shellcheck source=topologies/lan.sh
    . "$here/topologies/$topology.sh"
    # shellcheck disable=SC2064 # the name as it is now
    trap "cleanup $lab" EXIT
    mkdir -p "$LABS/$lab"
    echo "$topology" >"$LABS/$lab/topology"
    "up_${topology//-/_}" "$lab" "$hosts" "${sites[@]}"
    if ((${#impairments[@]})); then
        while read -r host _; do
            # The second host of a site shares the first one's way.
            [[ $host != [a-z]2 || $topology != nats ]] || continue
            impair "$lab" "$host" "${impairments[@]}"
        done <"$LABS/$lab/hosts"
    fi
    trap - EXIT
    echo "$lab"
    cat "$LABS/$lab/hosts"
}

enter() {
    local lab=${1:-} host=${2:-} namespace
    [[ -n $host ]] || usage
    namespace=$(lab_namespace "$lab" "$host")
    shift 2
    (($#)) || set -- "${SHELL:-/bin/bash}"
    export VPI_STATE=$LABS/$lab/$host/state
    PATH=$(target_folder)/release:$PATH
    export PATH
    exec ip netns exec "$namespace" "$@"
}

impair_one() {
    local lab=${1:-} host=${2:-}
    [[ -n $host ]] || usage
    lab_namespace "$lab" "$host" >/dev/null
    impair "$@"
}

renew() {
    local lab=${1:-} host=${2:-} topology
    [[ -n $host ]] || usage
    lab_namespace "$lab" "$host" >/dev/null
    topology=$(<"$LABS/$lab/topology")
    # shellcheck source=topologies/lan.sh
    . "$here/topologies/$topology.sh"
    declare -F "renew_$topology" >/dev/null || fail "a host of the topology $topology cannot be renewed"
    "renew_$topology" "$lab" "$host"
}

list() {
    local lab
    for lab in "$LABS"/*/; do
        [[ -d $lab ]] || continue
        lab=$(basename "$lab")
        echo "$lab"
        sed 's/^/  /' "$LABS/$lab/hosts"
    done
}

down() {
    (($#)) || usage
    local lab
    for lab in "$@"; do
        [[ $lab =~ ^[a-z0-9][a-z0-9-]*$ ]] || fail "not the name of a lab: $lab"
        cleanup "$lab"
    done
}

command=${1:-}
shift || usage
case $command in
    list) list ;;
    up | exec | impair | renew | down) need_root "a lab" ;;&
    up) up "$@" ;;
    exec) enter "$@" ;;
    impair) impair_one "$@" ;;
    renew) renew "$@" ;;
    down) down "$@" ;;
    *) usage ;;
esac
