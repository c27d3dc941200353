#!/usr/bin/env bash
# What the tests need from the system: Redis, PostgreSQL and pgbouncer, of which they start private servers, promtool, or, when called with
# `containers`, the tools that build docker/Dockerfile without a daemon, and the browser that opens the contact sheet.
# As root on Debian or Ubuntu the missing packages are installed; elsewhere one line says what to install.
# What is missing never ends this script with an error: its tests skip, or fail where CI is set.
set -euo pipefail

have_redis() { command -v redis-server >/dev/null || command -v valkey-server >/dev/null; }
have_postgres() {
    command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ||
        { command -v pg_config >/dev/null && [ -x "$(pg_config --bindir)/initdb" ]; }
}

have_browser() {
    local name
    for name in chromium-headless-shell chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null && return
    done
    return 1
}

have_promtool() { command -v promtool >/dev/null; }

have_pgbouncer() { command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]; }

missing=()
if [ "${1:-}" = containers ]; then
    elsewhere="only Linux has buildah and debootstrap; any Chromium or Chrome will do"
    command -v buildah >/dev/null || missing+=(buildah)
    command -v debootstrap >/dev/null || missing+=(debootstrap debian-archive-keyring)
    have_browser || missing+=(chromium-headless-shell)
else
    elsewhere="macOS: brew install redis postgresql@17 pgbouncer prometheus"
    have_redis || missing+=(redis-server)
    have_postgres || missing+=(postgresql)
    have_pgbouncer || missing+=(pgbouncer)
    have_promtool || missing+=(prometheus)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests of ${missing[*]} will skip: install it (Debian: sudo apt-get install ${missing[*]};" \
        "$elsewhere)" >&2
    exit 0
fi

# The tests want the binaries, not daemons on the standard ports: policy-rc.d answers 101, "do not start".
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
apt-get update -qq >"$log" 2>&1 || true # what is wrong with it, the installation says
for package in "${missing[@]}"; do # one by one: not every release has each
    if apt-get install -y -qq --no-install-recommends "$package" >"$log" 2>&1; then
        echo "installed $package"
    else
        reason=$(grep -m 1 '^E: ' "$log" || tail -n 1 "$log")
        echo "could not install $package, its tests will skip: $reason" >&2
    fi
done
rm -f "$log"
