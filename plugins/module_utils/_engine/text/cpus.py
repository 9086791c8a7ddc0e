# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to the vfio.isolation collection: no promise is made to code outside of it.

"""CPU sets, and the kernel's two ways to write one: CPU list and CPU mask.

Source: Documentation/admin-guide/kernel-parameters.rst (CPU lists), cpuset(7) (masks).
"""

from __future__ import annotations

import re
from typing import FrozenSet, Iterable, List

CpuSet = FrozenSet[int]

NONE: CpuSet = frozenset()

# The largest NR_CPUS of any kernel: a typo such as 0-99999999999 must not exhaust memory.
LIMIT = 1 << 13

_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18})(?::(\d{1,9})/(\d{1,9}))?)?\Z", re.ASCII)
_MASK = r"(?:[0-9A-Fa-f]+(?:,[0-9A-Fa-f]+)*)?\Z"  # compiled when it is first used: few runs read a mask


def is_number(text: str) -> bool:
    """Whether this is a decimal number as the kernel writes one; `isdigit` alone takes `²` and `٣` as well."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def parse_range(text: str) -> CpuSet:
    """The CPUs of one range: `3`, `0-6`, or `0-31:1/2` (of every group of 2, the first 1).

    Raises ValueError with what was expected.
    """
    return from_bits(_range_bits(text))


def _range_bits(text: str) -> int:
    match = _RANGE.match(text)
    if not match:
        raise ValueError("expected a number, a range such as 0-6, or 0-31:1/2")
    first, last, used, group = match.groups()
    low = int(first)
    high = low if last is None else int(last)
    if high < low:
        raise ValueError(f"the range ends ({high}) before it begins ({low})")
    if high >= LIMIT:
        raise ValueError(f"{high} is more than any kernel has ({LIMIT - 1})")
    if group is None:
        return ((1 << high - low + 1) - 1) << low
    if not 0 < int(used) <= int(group):
        raise ValueError(f"of every group of {group}, {used} cannot be used")
    return sum(1 << n for n in range(low, high + 1) if (n - low) % int(group) < int(used))


def parse_list(text: str) -> CpuSet:
    """The set that a kernel CPU list such as `0-6,16-22` stands for; the empty text is the empty set."""
    return from_bits(parse_bits(text))


def parse_bits(text: str) -> int:
    """The same as a bit set. That is small, also of a long list or of many that are added up. Raises ValueError."""
    text, bits = text.strip(), 0
    for part in text.split(",") if text else ():
        bits |= _range_bits(part.strip())
    return bits


def from_bits(bits: int) -> CpuSet:
    """The CPUs whose bits are set."""
    return frozenset(cpu for cpu, bit in enumerate(reversed(f"{bits:b}")) if bit == "1")


def to_bits(cpus: Iterable[int]) -> int:
    """The bit set of CPUs."""
    bits = 0
    for cpu in cpus:
        bits |= 1 << cpu
    return bits


def format_bits(bits: int) -> str:
    """The CPU list of a bit set."""
    return format_list(from_bits(bits))


def format_list(cpus: Iterable[int]) -> str:
    """The shortest CPU list, as the kernel prints it: sorted, ranges joined."""
    ranges: List[List[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def parse_mask(text: str) -> CpuSet:
    """The set that a CPU mask such as `ff,ffffffff` stands for: hexadecimal, groups of 32 bits.

    Raises ValueError with what was expected.
    """
    text = text.strip()
    if not re.match(_MASK, text) or len(text.replace(",", "")) > LIMIT // 4:
        raise ValueError("expected a CPU mask such as ff,ffffffff")
    return from_bits(int(text.replace(",", "") or "0", 16))


def format_mask(cpus: Iterable[int]) -> str:
    """The CPU mask of a set, in comma-separated groups of 32 bits."""
    bits = to_bits(cpus)
    groups = [bits & 0xFFFFFFFF]
    while bits >> 32:
        bits >>= 32
        groups.append(bits & 0xFFFFFFFF)
    first, rest = groups[-1], groups[-2::-1]
    return ",".join([f"{first:x}"] + [f"{group:08x}" for group in rest])
