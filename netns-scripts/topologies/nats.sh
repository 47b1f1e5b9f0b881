# shellcheck shell=bash
# netns-scripts/topologies/nats.sh: sites behind NATs of chosen kinds, and public hosts, on one internet.
#
#      a  eth0 192.168.1.2/24 ─ a  ┐ lan   gateway   wan ─ access  router  core ─ a  ┐
#      a2 eth0 192.168.1.3/24 ─ a2 ┘      (a-nat) 11.0.1.2/24     (a-edge)           │ router "net"
#      …                                                                             │ (the namespace LAB-net)
#      p1 eth0 11.0.201.2/24 ───────────────────── access (p1-edge) core ────── p1 ┤
#      p2 eth0 11.0.202.2/24 ───────────────────── access (p2-edge) core ────── p2 ┘
#
# Site number n has the address 11.0.n.2 outside and 192.168.n.0/24 inside; nothing in the internet knows a way to the inside.
# 11.0.0.0/8 is an ordinary range, because gateways refuse to map ports on reserved ones; nothing of it leaves the lab.
#
# A site is `KIND[,hairpin][,timeout=SECONDS][,hosts=2][,mapping[=pcp|=upnp]]`; the kinds are the files in nat/ that describe
# one. With mapping, the gateway maps ports for who asks, by PCP and NAT-PMP, by UPnP, or by all: miniupnpd runs there, and by PCP grants
# leases of MAPPING_LEASE seconds at most. Of the kind public, the host has the site's address itself. Of the kind carrier, each host has a home and a gateway of its own:
#
#      c  eth0 192.168.3.2/24 ─ lan  c-nat  wan 100.64.3.2/24 ─ c  ┐ lan   carrier    wan ─ access (c-edge) core ─ c
#      c2 eth0 192.168.3.2/24 ─ lan c2-nat  wan 100.64.3.3/24 ─ c2 ┘      (c-carrier) 11.0.3.2/24
#
# The fourth word of a host's line is the address that the internet sees. `run.sh impair LAB a …` impairs the way between a
# site and "net". Sourced by run.sh; needs lib.sh.

NATS=$(cd "$(dirname "${BASH_SOURCE[0]}")/../nat" && pwd)
# How many ports the kind sequential takes in turn, and the first of them.
readonly SEQUENCE_PORTS=1024 SEQUENCE_FIRST=20000
# For how long a gateway maps a port at most, in seconds (PCP and NAT-PMP; by UPnP, who asks says).
readonly MAPPING_LEASE=20

# up_nats LAB HOSTS SITE...: that many public hosts, p1, p2 …, and 1 to 26 sites, a, b ….
up_nats() {
    local lab=$1 hosts=$2 number
    shift 2
    (($# >= 1 && $# <= 26)) || fail "an internet of NATs has 1 to 26 sites, each with --site KIND, not $#"
    ((hosts >= 0 && hosts <= 9)) || fail "an internet of NATs has up to 9 public hosts, not $hosts"
    need_tools nft
    ns "$lab" net
    router "$lab-net"
    for ((number = 1; number <= $#; number++)); do
        nat_site "$lab" "$(letter "$number")" "$number" "${!number}"
    done
    for ((number = 1; number <= hosts; number++)); do
        public_host "$lab" "p$number" $((200 + number))
    done
}

# nat_site LAB SITE NUMBER KIND[,OPTION...]: a site with its hosts, gateways and the way to "net".
nat_site() {
    local lab=$1 site=$2 number=$3 words kind options='' lives='' hosts=1 mapping='' word
    IFS=, read -ra words <<<"$4"
    kind=${words[0]}
    nat_kinds | grep -qx -- "$kind" || fail "no NAT is called $kind; there are: $(nat_kinds | tr '\n' ' ')"
    for word in "${words[@]:1}"; do
        case $word in
            hairpin) options=hairpin ;;
            timeout=[1-9]*) lives=${word#*=} ;;
            hosts=[12]) hosts=${word#*=} ;;
            mapping) mapping=all ;;
            mapping=pcp | mapping=upnp) mapping=${word#*=} ;;
            *) fail "a site is KIND[,hairpin][,timeout=SECONDS][,hosts=2][,mapping[=pcp|=upnp]], not $4" ;;
        esac
    done
    [[ $lives =~ ^[0-9]*$ ]] || fail "a timeout is a number of seconds, not $lives"
    [[ -z $mapping || ($kind != public && $kind != carrier) ]] || fail "a site of the kind $kind has no gateway that could map ports"
    case $kind in
        public)
            ((hosts == 1)) || fail "a site of the kind public has one host"
            public_host "$lab" "$site" "$number"
            return
            ;;
        carrier)
            gateway "$lab" "$site-carrier" "100.64.$number.1/24"
            uplink "$lab" "$site" "$number" "$lab-$site-carrier" wan
            translate "$lab-$site-carrier" carrier "11.0.$number.2" "$options" "$lives"
            ;;
        *)
            gateway "$lab" "$site-nat" "192.168.$number.1/24"
            uplink "$lab" "$site" "$number" "$lab-$site-nat" wan
            translate "$lab-$site-nat" "$kind" "11.0.$number.2" "$options" "$lives"
            ;;
    esac
    inside_host "$lab" "$site" "$number" "$kind" "$site" 2 "$lives"
    ((hosts == 1)) || inside_host "$lab" "$site" "$number" "$kind" "${site}2" 3 "$lives"
    [[ -z $mapping ]] || port_mapper "$lab" "$site-nat" "$number" "$mapping"
}

# nat_kinds: what a site's NAT may be.
nat_kinds() {
    (cd "$NATS" && printf '%s\n' *.nft) | sed 's/\.nft$//' | grep -vxE 'gateway|hairpin'
}

# public_host LAB HOST NUMBER: a host without a NAT.
public_host() {
    ns "$1" "$2"
    uplink "$1" "$2" "$3" "$1-$2" eth0
    nat_host "$1" "$2" "11.0.$3.2" "11.0.$3.2"
}

# inside_host LAB SITE NUMBER KIND HOST LAST LIVES: a host behind the site's gateway; the last byte of its address, or with
# two layers of its gateway's.
inside_host() {
    local lab=$1 site=$2 number=$3 kind=$4 host=$5 last=$6 lives=$7
    ns "$lab" "$host"
    if [[ $kind == carrier ]]; then
        gateway "$lab" "$host-nat" "192.168.$number.1/24"
        cable "$lab-$site-carrier" "$host" "$lab-$host-nat" wan "100.64.$number.$last/24" "100.64.$number.1"
        translate "$lab-$host-nat" port-preserving "100.64.$number.$last" '' "$lives"
        last=2
    fi
    local gateway=$lab-$site-nat
    [[ $kind != carrier ]] || gateway=$lab-$host-nat
    cable "$gateway" "$host" "$lab-$host" eth0 "192.168.$number.$last/24" "192.168.$number.1"
    nat_host "$lab" "$host" "192.168.$number.$last" "11.0.$number.2"
}

# nat_host LAB HOST ADDRESS OUTSIDE: writes a host down, with the address that the internet sees.
nat_host() {
    lab_host "$1" "$2" "$1-$2" "$3 $4"
}

# gateway LAB PLACE CIDR: a router with a switch for its inside. What comes back to the switch by hairpinning is routed: where
# bridges call netfilter, as with docker, it would be switched, and the source would not be translated.
gateway() {
    local namespace=$1-$2
    ns "$1" "$2"
    router "$namespace"
    echoed ip netns exec "$namespace" sysctl -eqw net.bridge.bridge-nf-call-iptables=0
    switch "$namespace" lan
    address "$namespace" lan "$3"
}

# cable GATEWAY PORT NAMESPACE DEVICE CIDR ROUTER: plugs a device into the switch of a gateway, with its address and way out.
cable() {
    batch "$1" <<END
link add name $2 type veth peer name $4 netns $3
link set dev $2 master lan
link set dev $2 up
END
    batch "$3" <<END
address add $5 dev $4
link set dev $4 up
route add default via $6
END
}

# uplink LAB SITE NUMBER NAMESPACE DEVICE: a site's router, the way from there to "net", and the device that gets the site's
# address.
uplink() {
    local lab=$1 site=$2 number=$3 namespace=$4 device=$5 edge=$1-$2-edge
    ns "$lab" "$site-edge"
    router "$edge"
    batch "$edge" <<END
link add name access type veth peer name $device netns $namespace
link add name core type veth peer name $site netns $lab-net
address add 11.0.$number.1/24 dev access
address add 11.255.$number.1/31 dev core
link set dev access up
link set dev core up
route add default via 11.255.$number.0
END
    batch "$lab-net" <<END
address add 11.255.$number.0/31 dev $site
link set dev $site up
route add 11.0.$number.0/24 via 11.255.$number.1
END
    batch "$namespace" <<END
address add 11.0.$number.2/24 dev $device
link set dev $device up
route add default via 11.0.$number.1
END
}

# translate NAMESPACE KIND ADDRESS OPTIONS LIVES: makes a gateway a NAT of a kind, with hairpinning if the options say so;
# UDP mappings live that many seconds, or by default as nat/gateway.nft says.
translate() {
    local namespace=$1 kind=$2 wan=$3 options=$4 lives=$5 rules=$NATS
    if [[ -n $lives ]]; then
        echoed ip netns exec "$namespace" sysctl -qw \
            "net.netfilter.nf_conntrack_udp_timeout=$lives" "net.netfilter.nf_conntrack_udp_timeout_stream=$lives"
        # nft has no variables for a time.
        rules=$(mktemp -d)
        sed "s/timeout 120s/timeout ${lives}s/" "$NATS/gateway.nft" >"$rules/gateway.nft"
    fi
    echoed ip netns exec "$namespace" nft -I "$rules" -D "wan=$wan" -D "sequence={ $(sequence) }" -f "$NATS/$kind.nft"
    [[ -z $options ]] || echoed ip netns exec "$namespace" nft -D "wan=$wan" -f "$NATS/hairpin.nft"
    [[ $rules == "$NATS" ]] || rm -r "$rules"
}

# port_mapper LAB PLACE NUMBER PROTOCOLS: runs miniupnpd in a gateway. Its tables stand beside those of the NAT, and see what
# comes from outside before these do; `nft list chain inet mapper prerouting_miniupnpd` there shows what is mapped.
port_mapper() {
    local number=$3 protocols=$4 namespace=$1-$2 folder=$LABS/$1/$2 pmp=yes upnp=yes
    # Debian starts it for the machine where it is installed without what need_servers does.
    command -v miniupnpd >/dev/null || need_servers
    [[ $protocols != upnp ]] || pmp=no
    [[ $protocols != pcp ]] || upnp=no
    mkdir -p "$folder"
    echoed ip netns exec "$namespace" nft -f - <<END
table inet mapper {
    chain forward { type filter hook forward priority filter - 1; jump miniupnpd; }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority dstnat - 1; jump prerouting_miniupnpd; }
    chain prerouting_miniupnpd { }
    chain postrouting { type nat hook postrouting priority srcnat + 2; jump postrouting_miniupnpd; }
    chain postrouting_miniupnpd { }
}
END
    cat >"$folder/miniupnpd.conf" <<END
ext_ifname=wan
listening_ip=lan
ipv6_disable=yes
enable_natpmp=$pmp
enable_upnp=$upnp
min_lifetime=1
max_lifetime=$MAPPING_LEASE
upnp_table_name=mapper
upnp_nat_table_name=mapper
secure_mode=yes
uuid=00000000-0000-4000-8000-0000000000$(printf '%02d' "$number")
allow 1024-65535 192.168.$number.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
END
    echoed ip netns exec "$namespace" setsid miniupnpd -d -f "$folder/miniupnpd.conf" -P "$folder/miniupnpd.pid" \
        </dev/null >"$folder/miniupnpd.log" 2>&1 &
    wait_for 5 "miniupnpd to listen" mapper_listens "$namespace" "$protocols" || fail "$(cat "$folder/miniupnpd.log")"
}

# mapper_listens NAMESPACE PROTOCOLS: whether the gateway's mapper can be asked.
mapper_listens() {
    local port ports=(1900 5351)
    [[ $2 != upnp ]] || ports=(1900)
    [[ $2 != pcp ]] || ports=(5351)
    for port in "${ports[@]}"; do
        ip netns exec "$1" ss -Hlun "sport = :$port" | grep -q . || return 1
    done
}

# sequence: which port each number stands for, for nft.
sequence() {
    local number
    for ((number = 0; number < SEQUENCE_PORTS; number++)); do
        # nft takes a comma behind the last one.
        printf '%d : %d, ' "$number" $((SEQUENCE_FIRST + number))
    done
}
