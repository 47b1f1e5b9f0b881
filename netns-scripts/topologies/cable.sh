# shellcheck shell=bash
# netns-scripts/topologies/cable.sh: two hosts on one cable, without a switch: what is measured here is the hosts' doing.
#
#      a  eth0 10.77.0.1/24 ──────────── eth0 10.77.0.2/24  b
#
# Sourced by run.sh; needs lib.sh.

# up_cable LAB HOSTS: always two.
up_cable() {
    local lab=$1 hosts=$2 number host
    ((hosts == 2)) || fail "a cable has two hosts, not $hosts"
    ns "$lab" a
    ns "$lab" b
    link "$lab-a" eth0 "$lab-b" eth0
    for number in 1 2; do
        host=$(letter "$number")
        address "$lab-$host" eth0 "10.77.0.$number/24"
        lab_host "$lab" "$host" "$lab-$host" "10.77.0.$number"
    done
}
