# shellcheck shell=bash
# netns-scripts/topologies/crowd.sh: one host in the middle and many others, all on one switch.
#
#      hub  eth0 10.78.0.1/16 ──── hub ┐
#      p1   eth0 10.78.1.1/16 ──── p1  ┤ switch "crowd"
#      p2   eth0 10.78.1.2/16 ──── p2  ┤ (in the namespace LAB-crowd)
#      …                               ┘
#
# Sourced by run.sh; needs lib.sh.

# up_crowd LAB HOSTS: 2 to 251 hosts, the hub among them.
up_crowd() {
    local lab=$1 hosts=$2 number
    ((hosts >= 2 && hosts <= 251)) || fail "a crowd has 2 to 251 hosts, not $hosts"
    room_for_neighbours $((hosts * hosts))
    ns "$lab" crowd
    switch "$lab-crowd" crowd
    crowd_host "$lab" hub 10.78.0.1
    for ((number = 1; number < hosts; number++)); do
        crowd_host "$lab" "p$number" "10.78.1.$number"
    done
}

# room_for_neighbours COUNT: all namespaces share one bound of neighbours, and each two hosts of a crowd may be some. Beyond it
# nobody on this machine finds a new one. It stays raised: the kernel keeps entries only as they are used.
room_for_neighbours() {
    local bound=net.ipv4.neigh.default.gc_thresh3
    (($(sysctl -n "$bound") >= $1)) || echoed sysctl -qw "$bound=$1"
}

crowd_host() {
    ns "$1" "$2"
    link "$1-crowd" "$2" "$1-$2" eth0
    plug "$1-crowd" "$2" crowd
    address "$1-$2" eth0 "$3/16"
    lab_host "$1" "$2" "$1-$2" "$3"
}
