#!/usr/bin/env bash
# netns-scripts/bench/profile.sh: what bench.sh --profile recorded, as text: who used the time, and in which functions.
#
#   profile.sh PERF_FILE IPERF_FILE UNDERLAY
#
# Shares are of the samples of both ends' node threads ("pump"), which are one for each VPI and end. AEAD is what
# aws-lc-rs does; ours is what stands in the vpi binary and is not AEAD; the rest is the kernel.

set -euo pipefail
perf_file=$1 iperf_file=$2 underlay=$3

echo "# One TCP stream through ours, underlay $underlay"
echo "# $(date -u +%Y-%m-%d), commit $(git -C "${BASH_SOURCE[0]%/*}" rev-parse --short=12 HEAD), $(uname -r)"
echo "# $(awk '/receiver/ { print $7, $8 }' "$iperf_file") with perf beside it"
echo
echo "## Who used the time of all processors"
perf report -i "$perf_file" --stdio --no-children -g none --sort comm 2>/dev/null | awk 'NF && !/^#/ { print }' | head -n 12
perf report -i "$perf_file" --stdio --no-children -g none -t '|' --sort comm,dso,symbol 2>/dev/null | awk -F '|' '
    $2 ~ /^pump/ {
        share = $1 + 0
        name = $4
        gsub(/ +$|^ +/, "", name)
        of[name] += share
        all += share
        if (name ~ /^\[k\]/) kernel += share
        else if (name ~ /aws_lc|gcm|[Cc]ha[Cc]ha|poly1305|aesni/) aead += share
        else ours += share
    }
    END {
        if (!all) exit 1
        printf "\n## Shares of the pumps\n\nkernel %.1f %%, AEAD %.1f %%, ours %.1f %%\n", 100 * kernel / all, 100 * aead / all, 100 * ours / all
        print "\n## Functions of the pumps, from 0.7 % on\n"
        for (name in of) if (of[name] / all >= 0.007) printf "%5.1f %%  %s\n", 100 * of[name] / all, name | "sort -rn"
    }'
