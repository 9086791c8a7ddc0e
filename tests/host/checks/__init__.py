# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks that run on the virtual host itself, beside a copy of the engine: `python3 -m checks NAME`.

Each is a function `check_...` whose docstring is what it proves; they read the kernel, not the engine's word.
"""
