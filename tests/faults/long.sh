#!/bin/sh
# The long runs of the kill tests: 200 kills (tests/run.sh does 20).
cd "$(dirname "$0")/../.."
MOONPOST_ROUNDS=${1:-200} exec python3 tests/faults/test_kill.py
