#!/bin/sh
# The benchmarks: our server and its peers on this machine, in turn.  One JSON line a figure; the last line
# says how many goals were met.  Exit status 1 when one was missed.
#   sh tests/bench/run.sh                 all, about 20 minutes
#   sh tests/bench/run.sh --quick         one round with fewer messages, about 4 minutes: shows that all runs
#   sh tests/bench/run.sh NAME...         only scripts or cases named: hook_cost sessions ingest, or a case of
#                                         theirs: rate mdbox flush large memory idle tls select
# Needs root for the peers (packages, an overlay root).  MOONPOST names another build of the program.
set -u
cd "$(dirname "$0")/../.."
. tests/support/deps.sh

quick="" words=""
for w in "$@"; do
    if [ "$w" = --quick ]; then quick=--quick; else words="$words $w"; fi
done
if [ "$(id -u)" != 0 ]; then echo "the peers need root" >&2; exit 3; fi
deps_install $deps_build python3 postgresql-client-15 libcmocka-dev || exit 3
deps_user
if [ -z "${MOONPOST:-}" ]; then
    cmake -S . -B build-bench -G Ninja -DTESTS=OFF >/dev/null && ninja -C build-bench moonpost >/dev/null || exit 3
    MOONPOST=$PWD/build-bench/moonpost
    export MOONPOST
fi
BENCH_RESULTS=$(mktemp /tmp/moonpost-bench.XXXXXX)
export BENCH_RESULTS
trap 'rm -f "$BENCH_RESULTS"' EXIT
failed=0

wanted() {
    [ -z "$words" ] && return 0
    for w in $words; do [ "$w" = "$1" ] && return 0; done
    return 1
}

run() {
    python3 "tests/bench/$@" $quick || { echo "FAILED $*"; failed=1; }
}

wanted hook_cost && run hook_cost.py
for case in idle tls select; do
    if wanted sessions || wanted $case; then run sessions.py --case $case; fi
done
for case in rate mdbox flush large memory; do
    if wanted ingest || wanted $case; then run ingest.py --case $case; fi
done
met=$(grep -c '"met": true' "$BENCH_RESULTS")
missed=$(grep -c '"met": false' "$BENCH_RESULTS")
grep '"met": false' "$BENCH_RESULTS" | sed 's/^/missed: /'
echo "$met passed, $missed failed"
[ "$missed" = 0 ] && [ "$failed" = 0 ]
