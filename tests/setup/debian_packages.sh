#!/usr/bin/env bash
# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Installs those of the named Debian packages that are missing: debian_packages.sh NAME...

set -eu

if ! command -v dpkg-query >/dev/null; then
    echo "== Not a Debian machine: make sure that it has what these packages hold: $*"
    exit 0
fi

missing=()
for name in "$@"; do
    status=$(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "== Installing Debian packages: ${missing[*]}"
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null
