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
echo
echo "## Shares of the pumps"
perf report -i "$perf_file" --stdio --no-children -g none --sort comm,dso,symbol --percentage relative 2>/dev/null |
    awk '/pump/ {
        share = $1; sub("%", "", share); all += share
        if (/\[k\]/) kernel += share
        else if (/aws_lc|gcm|ChaCha|chacha|poly1305|vaes|gfmul|aesni/) aead += share
        else ours += share
    } END { if (all) printf "kernel %.1f %%, AEAD %.1f %%, ours %.1f %%\n", 100 * kernel / all, 100 * aead / all, 100 * ours / all }'
echo
echo "## Functions of the pumps, above 0.5 %"
perf report -i "$perf_file" --stdio --no-children -g none --sort comm,dso,symbol --percent-limit 0.5 2>/dev/null |
    awk '/pump/ { print }'
