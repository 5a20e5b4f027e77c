#!/usr/bin/env bash
# Prints the folder for the databases of a purpose: .NAME in the checkout. Database servers started by root run as the
# users of their packages, who cannot get through to a checkout in root's home; then it is /var/tmp/dms-local-NAME.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$PWD
if [ "$(id -u)" = 0 ]; then
    while [ "$dir" != / ]; do
        # The last of the permission bits: may others enter?
        if (($(stat -c %a "$dir") % 2 == 0)); then
            echo "/var/tmp/dms-local-$1"
            exit
        fi
        dir=$(dirname "$dir")
    done
fi
echo "$PWD/.$1"
