#!/usr/bin/env bash
# Installs what is missing for the named purposes on Debian or Ubuntu, and says what and why. What is there is left
# alone, so a second run takes a moment.
#
#   scripts/setup.sh [demo] [test] [bench]
#
# Servers are installed for their binaries only: no cluster is created and no service is started, because
# `dms-local sandbox` runs servers of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
optional=()

# need PACKAGE WHY COMMAND…: notes the package unless one of the commands or files is there.
need() {
    local package=$1 why=$2 command
    shift 2
    for command in "$@"; do
        if [ -e "$command" ] || command -v "$command" >/dev/null; then return; fi
    done
    printf '  %-20s %s\n' "$package" "$why"
    packages+=("$package")
}

# want PACKAGE WHY COMMAND…: the same for a package that not every distribution has.
want() {
    local before=${#packages[@]}
    need "$@"
    if [ "${#packages[@]}" -gt "$before" ]; then
        optional+=("$1")
        unset 'packages[-1]'
    fi
}

# The major version of PostgreSQL that is installed, or that would be.
postgres_major() {
    local major
    major=$(for folder in /usr/lib/postgresql/*/; do basename "$folder"; done | grep -x '[0-9]*' | sort -n | tail -n 1 || true)
    if [ -z "$major" ] && command -v apt-cache >/dev/null; then
        major=$(LC_ALL=C apt-cache policy postgresql | sed -n 's/^ *Candidate: \([0-9]*\).*/\1/p')
    fi
    echo "${major:-15}"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    elif [ -t 0 ]; then
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

# While packages are installed, no service may start and PostgreSQL's package may create no cluster.
hold=/usr/sbin/policy-rc.d
no_cluster=/etc/postgresql-common/createcluster.d/dms-local-setup.conf
held=()

release() {
    if [ "${#held[@]}" -gt 0 ]; then as_root rm -f "${held[@]}"; fi
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "This machine has no apt-get: install by hand what is listed above." >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        echo "There is no sudo: as root, run: apt-get install --no-install-recommends ${packages[*]} ${optional[*]}" >&2
        exit 1
    fi
    trap release EXIT
    if [ ! -e "$hold" ]; then
        held+=("$hold")
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$hold" >/dev/null
        as_root chmod 755 "$hold"
    fi
    held+=("$no_cluster")
    as_root mkdir -p "$(dirname "$no_cluster")"
    echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null

    as_root apt-get update -qq
    local package known
    for package in "${optional[@]}"; do
        # Not through a pipe: apt-cache may die of one that grep has closed, and pipefail would take that for absence.
        known=$(LC_ALL=C apt-cache policy "$package")
        if [[ $known == *"Candidate: "[!\(]* ]]; then
            packages+=("$package")
        else
            echo "  $package is not in this distribution; what needs it will say so"
        fi
    done
    if [ "${#packages[@]}" -gt 0 ]; then
        as_root apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >/dev/null
    fi
    release
    trap - EXIT
}

# The Python environment is made anew when requirements.txt changes.
python_environment() {
    local requirements=compat-tests/requirements.txt stamp=.venv/requirements.sum now
    now=$(sha256sum "$requirements")
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then return; fi
    echo "Installing boto3, pytest and database drivers into .venv"
    python3 -m venv --clear .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r "$requirements"
    echo "$now" >"$stamp"
}

[ $# -gt 0 ] || set -- demo test bench

# Without a pipe, so that the lists filled in a function are not lost.
need build-essential "C compiler, for the SQLite and TLS libraries that are built in" cc
need postgresql "PostgreSQL server, to migrate from and to" postgres /usr/lib/postgresql/*/bin/postgres
need postgresql-client "psql, to look into PostgreSQL" psql
need mariadb-server "MariaDB server, to migrate from and to" mariadbd /usr/sbin/mariadbd
need mariadb-client "mariadb, to look into MariaDB" mariadb
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    need python3-venv "Python environment for boto3" /nonexistent
fi
for purpose in "$@"; do
    case $purpose in
    demo) ;;
    test)
        want awscli "AWS CLI v2, one of the clients of the tests" /usr/bin/aws /usr/local/bin/aws
        major=$(postgres_major)
        want "postgresql-$major-pglogical" "PostgreSQL's pglogical, through which changes are read, too" \
            "/usr/lib/postgresql/$major/lib/pglogical.so"
        ;;
    bench)
        want pgcopydb "copies PostgreSQL, for comparison" pgcopydb
        want pgloader "copies MariaDB to PostgreSQL, for comparison" pgloader
        need wrk "HTTP load for the measurement of the API" wrk
        ;;
    *)
        echo "usage: scripts/setup.sh [demo] [test] [bench]" >&2
        exit 2
        ;;
    esac
done

if [ $((${#packages[@]} + ${#optional[@]})) -gt 0 ]; then
    echo "Installing the packages above (apt-get; nothing is started)"
    install_packages
fi
python_environment
