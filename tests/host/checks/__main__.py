# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run one check by name; it leaves the host as it found it, or fails."""

from __future__ import annotations

import importlib
import sys
import time

from . import ground

SKIPPED = 77  # the exit code of a check that this host has nothing for, as Automake has it


def main(module: str, name: str) -> int:
    """Run `check_NAME` of a module between two snapshots."""
    check = getattr(importlib.import_module(f"checks.{module}"), name)
    ground.start_clean()
    before = ground.snapshot()
    began = time.monotonic()
    reason = None
    try:
        check()
    except ground.NotThere as error:
        reason = error
    finally:
        ground.end_processes()
        ground.clean_up()
    left = ground.differences(before, ground.snapshot())
    if left:
        print("the check left the host changed:", *left, sep="\n  ")
        return 1
    if reason:
        print(reason)
        return SKIPPED
    print(f"{name}: {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
