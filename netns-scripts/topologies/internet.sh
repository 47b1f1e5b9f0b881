# shellcheck shell=bash
# netns-scripts/topologies/internet.sh: hosts on links of their own, each behind a router, nothing shared.
#
#      a  eth0 203.0.113.10/29 ── access ┐ router       ┌ a ┐
#                                        └ a-edge  core ┘   │
#      b  eth0 203.0.113.18/29 ── access ┐ router       ┌ b ┤ router "net"
#                                        └ b-edge  core ┘   │ (the namespace LAB-net)
#      …                                                …  ┘
#
# Host number n has 203.0.113.(8n+2)/29 and its router 203.0.113.(8n+1); the routers reach "net" over 192.0.2.2n/31.
# The ranges are those for documentation (RFC 5737). Each link also carries 198.51.100.8n/29, whose host address and
# router end in the same numbers: a host that takes that address instead has moved to another network:
#
#   ip address flush dev eth0; ip address add 198.51.100.10/29 dev eth0; ip route add default via 198.51.100.9
#
# The ports of "net" are called as the hosts; a capture there sees what has left a host's network. `--delay 20ms
# --loss 1%` and the like put a wan-link (tests/src/bin/wan-link) into each host's router, in both directions, so that
# two hosts are two such links apart; `run.sh impair LAB HOST` does it for one host. Sourced by run.sh; needs lib.sh.

# up_internet LAB HOSTS: 1 to 26 hosts.
up_internet() {
    local lab=$1 hosts=$2 number host
    ((hosts >= 1 && hosts <= 26)) || fail "an internet has 1 to 26 hosts, not $hosts"
    ns "$lab" net
    router "$lab-net"
    for ((number = 1; number <= hosts; number++)); do
        host=$(letter "$number")
        site "$lab" "$host" "$number"
        lab_host "$lab" "$host" "$lab-$host" "203.0.113.$((8 * number + 2))"
    done
}

# site LAB HOST NUMBER: a host, its router, and the way from there to "net".
site() {
    local lab=$1 host=$2 near=$((8 * $3)) far=$((2 * $3))
    local edge=$lab-$host-edge
    ns "$lab" "$host"
    ns "$lab" "$host-edge"
    router "$edge"
    batch "$edge" <<END
link add name access type veth peer name eth0 netns $lab-$host
link add name core type veth peer name $host netns $lab-net
address add 203.0.113.$((near + 1))/29 dev access
address add 198.51.100.$((near + 1))/29 dev access
address add 192.0.2.$((far + 1))/31 dev core
link set dev access up
link set dev core up
route add default via 192.0.2.$far
END
    batch "$lab-net" <<END
address add 192.0.2.$far/31 dev $host
link set dev $host up
route add 203.0.113.$near/29 via 192.0.2.$((far + 1))
route add 198.51.100.$near/29 via 192.0.2.$((far + 1))
END
    batch "$lab-$host" <<END
address add 203.0.113.$((near + 2))/29 dev eth0
link set dev eth0 up
route add default via 203.0.113.$((near + 1))
END
}
