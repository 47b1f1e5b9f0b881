# shellcheck shell=bash
# netns-scripts/topologies/lan.sh: hosts on one switch, nothing between them.
#
#      a  eth0 10.77.0.1/24 ──── a ┐
#      b  eth0 10.77.0.2/24 ──── b ┤ switch "lan"
#      c  eth0 10.77.0.3/24 ──── c ┤ (in the namespace LAB-lan)
#      …                           ┘
#
# The switch has a namespace of its own, so that a capture there sees the wire and not a host. Its ports are
# called as the hosts. Sourced by run.sh; needs lib.sh.

# up_lan LAB HOSTS: 1 to 26 hosts.
up_lan() {
    local lab=$1 hosts=$2 number host
    ((hosts >= 1 && hosts <= 26)) || fail "a lan has 1 to 26 hosts, not $hosts"
    ns "$lab-lan"
    switch "$lab-lan" lan
    for ((number = 1; number <= hosts; number++)); do
        host=$(letter "$number")
        ns "$lab-$host"
        link "$lab-$host" eth0 "$lab-lan" "$host"
        plug "$lab-lan" "$host" lan
        address "$lab-$host" eth0 "10.77.0.$number/24"
        lab_host "$lab" "$host" "$lab-$host" "10.77.0.$number"
    done
}
