# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one exception that callers see."""

from __future__ import annotations


class VirtualHostError(Exception):
    """The virtual host cannot do what was asked; the text is a sentence for a person."""
