#!/bin/sh
# Each fuzzer for so many seconds (default 600), with the corpus growing under build-fuzz/corpus.
#   sh tests/fuzz/long.sh [SECONDS [NAME...]]
set -u
cd "$(dirname "$0")/../.."
seconds=${1:-600}
[ $# -gt 0 ] && shift
cmake -S . -B build-fuzz -G Ninja -DFUZZ=ON -DTESTS=OFF -DCMAKE_C_COMPILER=clang >/dev/null && cmake --build build-fuzz -j 2 || exit 1
bad=0
for f in build-fuzz/fuzz_*; do
    [ -f "$f" ] && [ -x "$f" ] || continue
    base=$(basename "$f")
    [ $# -gt 0 ] && case " $* " in *" $base "*) ;; *) continue ;; esac
    mkdir -p "build-fuzz/corpus/$base"
    seeds=tests/corpus/$base
    [ -d "$seeds" ] || seeds=
    echo "== $base"
    "$f" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -artifact_prefix=build-fuzz/ \
        "build-fuzz/corpus/$base" $seeds 2>&1 | tail -3 || bad=1
done
exit $bad
