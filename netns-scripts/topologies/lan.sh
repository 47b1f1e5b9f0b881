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
    ns "$lab" lan
    switch "$lab-lan" lan
    for ((number = 1; number <= hosts; number++)); do
        host=$(letter "$number")
        lan_host "$lab" "$host" "$number"
        lab_host "$lab" "$host" "$lab-$host" "10.77.0.$number"
    done
}

# renew_lan LAB HOST: a new machine in the place of a host, with its name, address and state folder.
renew_lan() {
    local lab=$1 host=$2
    # The kernel takes the devices of a namespace off some time after it: its end of the cable goes first.
    ip -n "$lab-lan" link delete dev "$host"
    remove_ns "$lab-$host"
    # What a in ASCII is from 1.
    lan_host "$lab" "$host" $(($(printf '%d' "'$host") - 96))
}

# lan_host LAB HOST NUMBER: a namespace on the switch. Its hardware address follows from its number, so that its
# neighbours need not forget the old one when it is renewed.
lan_host() {
    local hardware
    hardware=$(printf '02:00:0a:4d:00:%02x' "$3")
    ns "$1" "$2"
    batch "$1-lan" <<END
link add name $2 type veth peer name eth0 address $hardware netns $1-$2
link set dev $2 master lan
link set dev $2 up
END
    batch "$1-$2" <<END
address add 10.77.0.$3/24 dev eth0
link set dev eth0 up
END
}
