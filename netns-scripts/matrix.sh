#!/usr/bin/env bash
# netns-scripts/matrix.sh: lets members behind every two kinds of NAT meet, and keeps what came of it in matrix.txt.
#
#      a … i  a member behind each kind (nat/) ┐
#      j … r  and another one                  ├ "net" ── p1 member that relays
#                                              ┘       ── p2, p3, p4 beacons
#
#   matrix.sh                 about seven minutes
#   matrix.sh --figures       about six: how quickly 95 pairs meet at a round trip of 50 ms; fails where a promise is not kept
#   matrix.sh --stock         about half an hour: five tries a pair, beside nodes of libp2p (QUIC, identify, relay, DCUtR) in the same
#                             networks; writes stock.txt, and what these nodes said to target/stock
#
# A pair without a direct path is watched for the minute that one may take. The scenario is tests/scenarios/matrix.rs; a
# test of simulations compares the table with the model's verdicts. VPI_BIN is the binary (default: built here). Needs root.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"
cd "$here/.."

main() {
    need_root "the lab"
    need_tools ip nft tcpdump git
    need_tun
    need_cargo
    cargo build --release --workspace --features tests/netns --bins --tests
    case $* in
        '') whole ;;
        --figures) scenario matrix::first_contacts_at_fifty_milliseconds_are_as_quick_as_promised ;;
        --stock) stock ;;
        *) fail "takes --figures, --stock or nothing" ;;
    esac
}

whole() {
    local commit
    table=$(mktemp)
    trap 'rm -f "$table"' EXIT
    VPI_MATRIX=$table scenario matrix::every_pair_of_nats_gets_its_line
    commit=$(git describe --always --dirty --exclude '*')
    {
        printf '# Written by netns-scripts/matrix.sh at commit %s on %s.\n' "$commit" "$(date -u +%F)"
        printf '# KIND KIND VERDICT, seconds to the first packet, seconds to a direct path\n'
        cat "$table"
    } >netns-scripts/matrix.txt
    cat netns-scripts/matrix.txt
}

stock() {
    local folder commit
    folder=$(target_folder)/stock
    rm -rf "$folder"
    mkdir -p "$folder"
    VPI_STOCK=$folder scenario stock::members_and_stock_libp2p_nodes_meet_side_by_side
    commit=$(git describe --always --dirty --exclude '*')
    {
        printf '# Written by netns-scripts/matrix.sh --stock at commit %s on %s; round trip 20 ms; five tries, each in a network of its own.\n' \
            "$commit" "$(date -u +%F)"
        printf '# KIND KIND, then of members and of nodes of libp2p: met, met directly, median of the seconds to a direct path\n'
        cat "$folder/table.txt"
    } >netns-scripts/stock.txt
    cat netns-scripts/stock.txt
}

scenario() {
    VPI_BIN=${VPI_BIN:-$(target_folder)/release/vpi} \
        cargo test --release --workspace --features tests/netns --test scenarios \
        "$1" -- --exact --ignored --nocapture
}

main "$@"
