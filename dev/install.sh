#!/bin/sh
# Installs packages of Debian or Ubuntu without starting what they contain. Needs root.
# Usage: sh install.sh rabbitmq-server postgresql redis-server
#
# For the duration only: a policy-rc.d that forbids the packages to start their services (unless the machine has one of its own),
# a setting that keeps postgresql from creating its "main" cluster (one that exists already is not touched), and, where the
# machine's certificates are mounted read-only (containers), a make-ssl-cert that makes none: ssl-cert would fail to install,
# and postgresql with it, for a certificate that nothing here uses.
set -eu

policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/posthaste.conf
mark='# put here by posthaste while it installs packages'

stand_ins=$(mktemp -d)

exec 9>/run/posthaste-install.lock
flock 9

remove_ours() {
    for file in "$policy" "$cluster"; do
        if grep -qs "^$mark" "$file"; then rm -f "$file"; fi
    done
}
trap 'remove_ours; rm -rf "$stand_ins"' EXIT
trap 'exit 130' INT TERM HUP
remove_ours  # what an attempt that was killed may have left

if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
fi
mkdir -p "${cluster%/*}"
printf '%s\ncreate_main_cluster = false\n' "$mark" >"$cluster"

if [ -d /etc/ssl/certs ] && [ ! -w /etc/ssl/certs ]; then
    printf '#!/bin/sh\nexit 0\n' >"$stand_ins/make-ssl-cert"
    chmod 755 "$stand_ins/make-ssl-cert"
fi

export DEBIAN_FRONTEND=noninteractive
path=$stand_ins:/usr/sbin:/usr/bin:/sbin:/bin
apt-get -qq -o DPkg::Lock::Timeout=300 update
apt-get -qq -y -o DPkg::Lock::Timeout=300 -o DPkg::Path="$path" -o Dpkg::Use-Pty=0 install --no-install-recommends "$@"

# nor should they start with the next boot, under systemd or without
for package in "$@"; do
    update-rc.d "$package" disable || true
    if command -v systemctl; then systemctl --quiet disable "$package.service" || true; fi
done
