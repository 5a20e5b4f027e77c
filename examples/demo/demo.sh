#!/usr/bin/env bash
# The whole of dms-local in one run: a sample database in MariaDB is migrated to PostgreSQL by a plain boto3 script,
# changes for some seconds while the task follows, and is compared value by value. Everything lives in one data folder
# and on free ports, and is stopped in the end.
#
#   examples/demo/demo.sh [--keep] [--clean]
#
#   --keep    leave server and databases running, and say how to stop them
#   --clean   only stop what an earlier run left and remove its data
set -euo pipefail
cd "$(dirname "$0")/../.."

keep='' only_clean=''
for argument in "$@"; do
    case $argument in
    --keep) keep=yes ;;
    --clean) only_clean=yes ;;
    *)
        sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    esac
done

data=${DMS_LOCAL_DEMO_DIR:-$(scripts/data_dir.sh demo)}
python=$PWD/.venv/bin/python
server_pid=''

step() {
    if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi
}

# Ends what this run started, however it ends.
finish() {
    local code=$?
    trap - EXIT INT TERM
    if [ -n "$server_pid" ]; then
        kill "$server_pid" 2>/dev/null || true
        wait "$server_pid" || true
    fi
    clean
    if [ "$code" = 0 ]; then
        rm -f "$data/sandbox.json" "$data/server.log"
        rmdir "$data" || true
    else
        echo "FAILED; the server's log is $data/server.log" >&2
    fi
    exit "$code"
}

clean() {
    if [ -d "$data/sandbox" ]; then "$binary" sandbox stop --delete --dir "$data/sandbox" >/dev/null; fi
    rm -rf "$data/server" "$data/url"
}

# field NAME FIELD: what the sandbox says of one of its servers.
field() {
    "$python" -c 'import json, sys
for server in json.load(open(sys.argv[1]))["instances"]:
    if server["name"] == sys.argv[2]: print(server[sys.argv[3]])' "$data/sandbox.json" "$1" "$2"
}

url() {
    echo "$(field "$1" engine)://$(field "$1" user):$(field "$1" password)@$(field "$1" host):$(field "$1" port)"
}

step "1/8  Building dms-local"
cargo build --release --quiet
binary=${CARGO_TARGET_DIR:-target}/release/dms-local
if [ -n "$only_clean" ]; then
    clean
    rm -rf "$data"
    exit
fi
# What an earlier run left behind, if it was killed.
clean
mkdir -p "$data"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "2/8  Starting MariaDB and PostgreSQL in $data/sandbox"
"$binary" sandbox start --dir "$data/sandbox" >"$data/sandbox.json"
for name in mariadb-1 postgres-1; do
    echo "  $name: version $(field "$name" version), port $(field "$name" port)"
done
MIGRATE_SOURCE=$(url mariadb-1)
MIGRATE_TARGET=$(url postgres-1)/$(field postgres-1 database)
export MIGRATE_SOURCE MIGRATE_TARGET

step "3/8  Loading the sample into MariaDB"
"$python" examples/demo/sample_data.py "$MIGRATE_SOURCE"

step "4/8  Starting dms-local"
rm -f "$data/url"
mkfifo "$data/url"
"$binary" serve --listen 127.0.0.1:0 --data-dir "$data/server" >"$data/url" 2>"$data/server.log" </dev/null &
server_pid=$!
# The server prints one line when it is ready; when it ends instead, so does the pipe.
read -r line <"$data/url" || { cat "$data/server.log" >&2; exit 1; }
rm -f "$data/url"
echo "  $line"
[[ $line =~ http://[^[:space:]]+ ]] || { echo "  the server did not print its URL" >&2; exit 1; }

# All that makes a script for AWS a script for dms-local. The credentials can be any.
export AWS_ENDPOINT_URL_DATABASE_MIGRATION_SERVICE=${BASH_REMATCH[0]}
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null

step "5/8  Migrating with examples/migrate.py: the load"
"$python" examples/migrate.py --name demo --migration-type full-load-and-cdc

step "6/8  Changing MariaDB for 10 seconds while the task follows"
"$python" examples/demo/follow.py --task demo --seconds 10

step "7/8  Stopping the task with examples/migrate.py, once it has caught up"
"$python" examples/migrate.py --name demo --stop

step "8/8  Comparing source and target, every value of every row"
"$python" examples/demo/compare.py --self-test

if [ -n "$keep" ]; then
    trap - EXIT
    step "Still running"
    echo "  server     $AWS_ENDPOINT_URL_DATABASE_MIGRATION_SERVICE (process $server_pid, data in $data/server)"
    echo "  MariaDB    $MIGRATE_SOURCE/shop"
    echo "  PostgreSQL $MIGRATE_TARGET"
    echo "  stop with  kill $server_pid; examples/demo/demo.sh --clean"
fi
