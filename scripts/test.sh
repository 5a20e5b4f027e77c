#!/usr/bin/env bash
# Runs every test: those of the crate, then the black-box tests. Both run whatever the first gives; the summaries of
# both close the output, and one failure fails the whole.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

export RUST_BACKTRACE=${RUST_BACKTRACE:-1}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export DMS_LOCAL_BIN=$CARGO_TARGET_DIR/debug/dms-local

output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT

cargo build --bins || exit 1

# cargo test and not nextest: tests of one process share their database servers.
cargo test --no-fail-fast </dev/null 2>&1 | tee "$output/cargo"
cargo_code=${PIPESTATUS[0]}

.venv/bin/python -m pytest compat-tests "$@" </dev/null 2>&1 | tee "$output/pytest"
pytest_code=${PIPESTATUS[0]}

echo
echo "=== summary ==="
grep -E '^test result: ' "$output/cargo"
tail -n 1 "$output/pytest"
if [ "$cargo_code" -ne 0 ] || [ "$pytest_code" -ne 0 ]; then
    echo "FAILED: cargo test ended with $cargo_code, pytest with $pytest_code"
    exit 1
fi
