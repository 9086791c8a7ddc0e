#!/usr/bin/env bash
# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Runs a command in a copy of the collection: in_copy.sh ansible-test sanity
#
# ansible-test insists on a directory ansible_collections/vfio/isolation and refuses a link to one.

set -eu
shopt -s nullglob

checkout=$(cd "$(dirname "$0")/../.." && pwd)
collections=$checkout/.cache/copy
copy=$collections/ansible_collections/vfio/isolation

# A repository of its own, since ansible-test would ask the checkout's, which ignores .cache.
# tests/output stays: ansible-test keeps its virtual environments there.
git init --quiet "$copy"
stale() { find "$copy" "$@" -not -path "$copy/.git/*" -not -path "$copy/tests/output/*" -delete; }
stale -type f
cd "$checkout"
comm -z -23 <(git ls-files -z --cached --others --exclude-standard | sort -zu) <(git ls-files -z --deleted | sort -z) |
    tar --create --null --files-from=- | tar --extract --directory="$copy"
stale -type d -empty
# What the unit tests need with other Pythons, out of the one list of versions.
mkdir -p "$copy/tests/unit"
grep '^hypothesis==' tests/requirements.txt >"$copy/tests/unit/requirements.txt"

# ansible-test wants a get-pip script for its virtual environments and would download it.
cache=$HOME/.ansible/test/cache
mkdir -p "$cache"
[ -e "$cache/get_pip_24_2.py" ] || cp tests/lint/get_pip.py "$cache/get_pip_24_2.py"

# pyenv's shims answer to every python3.X and fail: take the interpreters behind them instead.
path=
IFS=:
for directory in $PATH; do
    [[ $directory == */shims ]] || path+=$directory:
done
unset IFS
for directory in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin; do
    path+=$directory:
done

cd "$copy"
exec env PATH="${path%:}" ANSIBLE_COLLECTIONS_PATH="$collections" "$@"
