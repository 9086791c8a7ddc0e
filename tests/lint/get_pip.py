# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands in for the get-pip script that ansible-test downloads: takes the pip that comes with the Python.

ansible-test asks for a certain version of pip and nothing else. Any will do for its few pinned packages, and
fetching that one for each of its twenty virtual environments would take a minute.
"""

from __future__ import annotations

import subprocess
import sys

# As a process: called as a function, ensurepip would switch off pip's settings for what follows.
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
