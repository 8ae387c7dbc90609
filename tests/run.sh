#!/bin/sh
# Installs what the tests need, builds, and runs them all.  Last line: N passed, N failed, N skipped.
#   sh tests/run.sh                everything
#   sh tests/run.sh NAME...        only steps whose name contains one of the words
#   sh tests/run.sh --list         names of the steps
# Long runs have commands of their own: tests/faults/long.sh, tests/fuzz/long.sh, tests/bench.
set -u
cd "$(dirname "$0")/.."
. tests/support/deps.sh

log=$(mktemp -d /tmp/moonpost-run.XXXXXX)
chmod 755 "$log"
trap 'rm -rf "$log"' EXIT
passed=0 failed=0 skipped=0 failures=""
words="$*"

wanted() {
    [ -z "$words" ] && return 0
    for w in $words; do case "$1" in *"$w"*) return 0 ;; esac; done
    return 1
}

# step NAME COMMAND...: its output is shown when it fails; a closing line 'N passed, N failed[, N
# skipped]' is added up, otherwise the step counts as one.
step() {
    name=$1; shift
    wanted "$name" || return 0
    if [ "$words" = --list ]; then echo "$name"; return 0; fi
    begun=$(date +%s)
    if "$@" >"$log/out" 2>&1; then ok=1; else ok=0; fi
    took=$(($(date +%s) - begun))
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log/out" | tail -1)
    if [ -n "$line" ]; then
        p=$(echo "$line" | sed 's/ passed.*//'); f=$(echo "$line" | sed 's/.*passed, //; s/ failed.*//')
        s=$(echo "$line" | sed -n 's/.*failed, \([0-9]*\) skipped.*/\1/p'); s=${s:-0}
        [ "$ok" = 0 ] && [ "$f" = 0 ] && f=1
    elif [ "$ok" = 1 ]; then p=1 f=0 s=0; else p=0 f=1 s=0; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ "$f" = 0 ] && [ "$ok" = 1 ]; then
        echo "ok      $name ($p tests, ${took} s)"
        grep '^SKIPPED' "$log/out"
        grep '^figure' "$log/out"
    else
        echo "FAILED  $name (${took} s)"
        failures="$failures $name"
        tail -c 12000 "$log/out"
    fi
    return 0
}

# Totals of ctest as a closing line.
unit() {
    ctest --test-dir "$1" -j 2 --output-on-failure >"$log/ctest" 2>&1
    rc=$?
    grep -vE '^ *[0-9]+/[0-9]+ Test .*Passed|^ *Start' "$log/ctest"
    total=$(sed -n 's/.*tests passed, \([0-9]*\) tests failed out of \([0-9]*\).*/\1 \2/p' "$log/ctest")
    set -- $total
    [ $# = 2 ] && [ "$2" -gt 0 ] && echo "$(($2 - $1)) passed, $1 failed"
    return $rc
}

fuzz() {
    n=0 bad=0
    for f in build-fuzz/fuzz_*; do
        [ -x "$f" ] && [ ! -d "$f" ] || continue
        base=$(basename "$f"); corpus=tests/corpus/${base#fuzz_}
        [ -d "$corpus" ] || corpus=tests/corpus/$base
        mkdir -p "$log/$base"
        if "$f" -max_total_time=5 -rss_limit_mb=2048 -timeout=5 -artifact_prefix="$log/" "$log/$base" $corpus; then
            n=$((n + 1))
        else
            bad=$((bad + 1))
        fi
    done
    echo "$n passed, $bad failed"
    [ "$bad" = 0 ] && [ "$n" -gt 0 ]
}

python_tests() {
    python3 "$1"
}

if [ "$words" != --list ]; then
    deps_install $deps_build $deps_test || exit 1
    deps_user
fi
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=0

build() { cmake -S . -B "$@" -G Ninja -DCMAKE_EXPORT_COMPILE_COMMANDS=ON && cmake --build "$1" -j 2; }
step build            build build
step build-asan       build build-asan -DSANITIZE=ON
step build-fuzz       build build-fuzz -DFUZZ=ON -DTESTS=OFF -DCMAKE_C_COMPILER=clang
step lint-layers      tests/lint/layers
step lint-lua         luacheck -q --no-color lua stdlib tests/lua tests/compat
step lint-format      sh -c 'clang-format --dry-run -Werror $(git ls-files "engine/*.[ch]" "tests/*.[ch]")'
step unit             unit build
step unit-asan        unit build-asan
step dialog           python3 tests/support/talk.py
step dialog-asan      env MOONPOST=$PWD/build-asan/moonpost python3 tests/support/talk.py
for t in tests/system/test_*.py tests/clients/test_*.py tests/faults/test_*.py; do
    [ -e "$t" ] || continue
    step "$(echo "$t" | sed 's|tests/||; s|/test_|-|; s|\.py||')" python_tests "$t"
done
step fuzz             fuzz

[ "$words" = --list ] && exit 0
[ -n "$failures" ] && echo "failed:$failures"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
