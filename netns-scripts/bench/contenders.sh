# shellcheck shell=bash
# netns-scripts/bench/contenders.sh: how each contender of bench.sh is found and put up between hosts a and b.
#
# Sourced by bench.sh, whose `lab`, `folder`, `on` and `background` it uses. put_up leaves the inner address of b in
# `target`. What --peers fetched lies in PEERS and is found before what the machine has: Debian 12's own wireguard-go
# (of 2022) has no offloads and is several times slower than the present one.

PEERS=${XDG_CACHE_HOME:-$HOME/.cache}/vpi-bench
PATH=$PEERS/usr/bin:$PATH

# found_contenders: one a line.
found_contenders() {
    printf '%s\n' bare ours
    if is_there wireguard-go; then echo wireguard-go; fi
    if is_there boringtun-cli; then echo boringtun; fi
    if is_there gotatun; then echo gotatun; fi
    if is_there nebula; then echo nebula; fi
}

is_there() {
    command -v "$1" >/dev/null && { [[ $1 == nebula ]] || command -v wg >/dev/null; }
}

# put_up CONTENDER: both ends, configured; what they listen on is up, the tunnel may still be asleep.
put_up() {
    case $1 in
        bare) target=10.77.0.2 ;;
        ours-*) put_up_ours "$(binary_of "$1")" "${1#ours-}" ;;
        ours | *=*) put_up_ours "$(binary_of "$1")" auto ;;
        wireguard-go) put_up_wireguard "$1" wireguard-go -f ;;
        boringtun) put_up_wireguard "$1" boringtun-cli -f --disable-drop-privileges ;;
        gotatun) put_up_wireguard "$1" gotatun -f --disable-drop-privileges ;;
        nebula) put_up_nebula ;;
        *) fail "no contender is called $1" ;;
    esac
}

# binary_of CONTENDER: the vpi binary of ours, ours-CIPHER or NAME=BINARY.
binary_of() {
    case $1 in
        ours | ours-*) echo "$(target_folder)/release/vpi" ;;
        *=*) echo "${1#*=}" ;;
        *) fail "$1 is not of ours" ;;
    esac
}

# put_up_ours BINARY CIPHER: two members of one VPI, and `binary`.
put_up_ours() {
    local host token
    binary=$1
    [[ -x $1 ]] || fail "$1 is missing; build it with: cargo build --release -p node"
    printf '%s\n' "cipher = \"$2\"" "${settings[@]}" >"$folder/settings.toml"
    for host in a b; do
        background "$host" "$1" up --config "$folder/settings.toml"
    done
    for host in a b; do
        wait_for 10 "the ready line of $host" grep -qi ready "$LABS/$lab/$host/node.out" ||
            fail "$(tail -n 3 "$LABS/$lab/$host/node.log")"
    done
    on a "$1" create home --name a --json >/dev/null 2>&1
    token=$(on a "$1" invite home --json 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])')
    on b "$1" join --name b --json <<<"$token" >/dev/null 2>&1
    wait_for 10 "a to know b" alias_on a b
    target=$(alias_on a b)
}

# alias_on HOST NAME: the alias by which a host knows a member.
alias_on() {
    on "$1" "$binary" status --json | python3 -c '
import json, sys
members = json.load(sys.stdin)["vpis"][0]["members"]
print(next(member["alias"] for member in members if member["name"] == sys.argv[1]))' "$2"
}

# put_up_wireguard NAME COMMAND...: any program that takes a device's name last and is configured by wg.
put_up_wireguard() {
    local name=$1 host peer number=1
    shift
    command -v "$1" >/dev/null || fail "$name is missing: bench.sh --peers fetches wireguard-go, cargo install the others"
    need_tools wg
    for host in a b; do
        (umask 077 && wg genkey >"$folder/$host.key")
        background "$host" env LOG_LEVEL=error "$@" "wg$host"
        wait_for 5 "$name" on "$host" wg show "wg$host" || fail "$(tail -n 3 "$LABS/$lab/$host/node.log")"
    done
    for host in a b; do
        peer=$([[ $host == a ]] && echo b || echo a)
        on "$host" wg set "wg$host" private-key "$folder/$host.key" listen-port 51820 \
            peer "$(wg pubkey <"$folder/$peer.key")" endpoint "10.77.0.$((3 - number)):51820" allowed-ips 0.0.0.0/0
        on "$host" ip address add "10.78.0.$number/24" dev "wg$host"
        on "$host" ip link set "wg$host" mtu 1420 up
        number=2
    done
    target=10.78.0.2
}

put_up_nebula() {
    local host peer number=1 certificates=$folder/nebula
    command -v nebula >/dev/null || fail "nebula is missing: bench.sh --peers fetches it"
    if [[ ! -e $certificates ]]; then
        mkdir "$certificates"
        (cd "$certificates" && nebula-cert ca -name bench && nebula-cert sign -name a -ip 10.78.0.1/24 &&
            nebula-cert sign -name b -ip 10.78.0.2/24)
    fi
    for host in a b; do
        peer=$((3 - number))
        cat >"$certificates/$host.yml" <<END
pki: {ca: $certificates/ca.crt, cert: $certificates/$host.crt, key: $certificates/$host.key}
static_host_map: {"10.78.0.$peer": ["10.77.0.$peer:4242"]}
lighthouse: {am_lighthouse: $([[ $host == a ]] && echo true || echo false), hosts: [$([[ $host == a ]] || echo '"10.78.0.1"')]}
listen: {host: 0.0.0.0, port: 4242}
tun: {dev: nebula$host}
logging: {level: error}
firewall: {outbound: [{port: any, proto: any, host: any}], inbound: [{port: any, proto: any, host: any}]}
END
        background "$host" nebula -config "$certificates/$host.yml"
        number=2
    done
    target=10.78.0.2
}

# get_peers: wireguard-go and nebula from Debian unstable, unpacked into PEERS. The machine's own package lists and
# packages stay as they are, but for wg, which is installed.
get_peers() {
    local name program
    need_tools dpkg apt-get
    mkdir -p "$PEERS/apt/parts" "$PEERS/apt/lists/partial" "$PEERS/apt/archives/partial"
    cat >"$PEERS/apt/parts/sid.sources" <<END
Types: deb
URIs: http://deb.debian.org/debian
Suites: sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
    local apart=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$PEERS/apt/parts"
        -o "Dir::State::Lists=$PEERS/apt/lists" -o "Dir::Cache=$PEERS/apt" -o "Dir::Cache::Archives=$PEERS/apt/archives"
        -o Acquire::Languages=none -o APT::Sandbox::User=root)
    apt-get -qq "${apart[@]}" update || fail "the package list of Debian unstable cannot be had"
    for name in wireguard-go nebula; do
        (cd "$PEERS" && rm -f "$name"_*.deb && apt-get -qq "${apart[@]}" download "$name" && dpkg -x "$name"_*.deb .) ||
            echo "$name cannot be had from Debian unstable" >&2
    done
    rm -rf "$PEERS/apt"
    need_tools wg
    for name in wireguard-go boringtun gotatun nebula; do
        program=$name
        [[ $name != boringtun ]] || program=boringtun-cli
        printf '%-14s %s\n' "$name" "$(is_there "$program" && command -v "$program" || echo "missing$(how_to_get "$name")")"
    done
}

how_to_get() {
    case $1 in
        boringtun) echo ': cargo install --locked boringtun-cli' ;;
        gotatun) echo ': cargo install --locked gotatun-cli' ;;
    esac
}
