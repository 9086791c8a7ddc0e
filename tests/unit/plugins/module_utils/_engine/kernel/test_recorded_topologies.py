# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the CPU language, the facts and the pinning make of real machines; all expected values are written by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple
from xml.etree import ElementTree as ET

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.topology import SysfsTopology
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.cpus import format_list
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.expression import evaluate
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.kernel.recorded_topologies import (
    MACHINES,
    files,
    numbers,
)

EVEN = "0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,38"
ODD = "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33,35,37,39"
ONE_TYPE = "this host's CPUs are all of one type"
UNKNOWN_TYPES = "the kernel of this host does not say which type its CPUs are of"


class Pinned(NamedTuple):
    """A call of the filter `cputune`: the host CPUs in the order of the vCPUs, mode and nodes of the memory, if any."""

    cpus: str
    pins: str
    numatune: Optional[str] = None


class Expected(NamedTuple):
    """What is known of a machine."""

    cpus: Dict[str, str]  # expression -> CPU list
    errors: Dict[str, str]  # expression -> words of the error
    dies: Dict[str, str]
    l3: List[Tuple[str, int]]
    types: Optional[Dict[str, str]]
    node_memory: Dict[str, int]
    node_distances: Dict[str, Dict[str, int]]
    pinned: Tuple[Pinned, ...]


EXPECTED = {
    "Ryzen 9 5950X": Expected(
        cpus={
            "node:0": "0-31",
            "package:0": "0-31",
            "die:0": "0-31",
            "core:3": "3,19",
            "core:19": "3,19",
            "l3:0": "0-7,16-23",
            "l3:31": "8-15,24-31",
            "l3:8,^core:8": "9-15,25-31",
            "online,^l3:0": "8-15,24-31",
            "all": "0-31",
            "online": "0-31",
        },
        errors={
            "node:1": "there is no NUMA node 1; online are 0",
            "package:1": "there is no package 1; there are 0",
            "die:1": "there is no die 1; there are 0",
            "core:32": "CPU 32 is not online; online are 0-31",
            "l3:32": "no L3 cache is known for CPU 32; online are 0-31",
            "l3:largest": "no single L3 domain is the largest: 2 have 32768 KiB",
            "type:performance": ONE_TYPE,
            "^core:0": "there is nothing yet to exclude it from",
            "all,^node:0": "leaves no CPU at all",
        },
        dies={"0": "0-31"},
        l3=[("0-7,16-23", 33554432), ("8-15,24-31", 33554432)],
        types={},
        node_memory={"0": 68719476736},
        node_distances={"0": {"0": 10}},
        pinned=(
            Pinned("l3:8", "8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31"),
            Pinned("online,^core:0", "1 17 2 18"),
        ),
    ),
    "Ryzen 9 7950X3D": Expected(
        cpus={
            "node:0": "0-31",
            "package:0": "0-31",
            "die:0": "0-7,16-23",
            "die:1": "8-15,24-31",
            "die:0.1": "8-15,24-31",
            "die:0-1,^core:0": "1-15,17-31",
            "core:24": "8,24",
            "l3:0": "0-7,16-23",
            "l3:8": "8-15,24-31",
            "l3:largest": "0-7,16-23",
            "online,^l3:largest": "8-15,24-31",
            "all": "0-31",
            "online": "0-31",
        },
        errors={
            "node:1": "there is no NUMA node 1; online are 0",
            "package:1": "there is no package 1; there are 0",
            "die:2": "there is no die 2; there are 0, 1",
            "die:1.0": "there is no die 1.0; there are 0, 1",
            "type:performance": ONE_TYPE,
            "type:efficiency": ONE_TYPE,
        },
        dies={"0": "0-7,16-23", "1": "8-15,24-31"},
        l3=[("0-7,16-23", 100663296), ("8-15,24-31", 33554432)],
        types={},
        node_memory={"0": 68719476736},
        node_distances={"0": {"0": 10}},
        pinned=(
            Pinned("l3:largest", "0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23"),
            Pinned("die:1", "8 24"),
        ),
    ),
    "Core i9-12900K": Expected(
        cpus={
            "node:0": "0-23",
            "package:0": "0-23",
            "die:0": "0-23",
            "core:5": "4-5",
            "core:16": "16",
            "core:0-3": "0-3",
            "l3:20": "0-23",
            "l3:largest": "0-23",
            "type:performance": "0-15",
            "type:efficiency": "16-23",
            "type:performance,^core:0": "2-15",
            "all": "0-23",
            "online": "0-23",
        },
        errors={
            "node:1": "there is no NUMA node 1; online are 0",
            "package:1": "there is no package 1; there are 0",
            "die:1": "there is no die 1; there are 0",
            "core:24": "CPU 24 is not online; online are 0-23",
        },
        dies={"0": "0-23"},
        l3=[("0-23", 31457280)],
        types={"performance": "0-15", "efficiency": "16-23"},
        node_memory={"0": 68719476736},
        node_distances={"0": {"0": 10}},
        pinned=(
            Pinned("type:performance,^core:0", "2 3 4 5 6 7 8 9"),
            Pinned("type:efficiency", "16 17 18 19"),
        ),
    ),
    "Threadripper 1920X": Expected(
        cpus={
            "node:0": "0-5,12-17",
            "node:1": "6-11,18-23",
            "N0-1": "0-23",
            "N1,^C6-8": "9-11,18-23",
            "package:0": "0-23",
            "die:0": "0-5,12-17",
            "die:1": "6-11,18-23",
            "core:7": "7,19",
            "l3:0": "0-2,12-14",
            "l3:4": "3-5,15-17",
            "l3:23": "9-11,21-23",
            "node:1,^l3:6": "9-11,21-23",
            "all": "0-23",
            "online": "0-23",
        },
        errors={
            "node:2": "there is no NUMA node 2; online are 0-1",
            "package:1": "there is no package 1; there are 0",
            "die:2": "there is no die 2; there are 0, 1",
            "l3:largest": "no single L3 domain is the largest: 4 have 8192 KiB",
            "type:performance": UNKNOWN_TYPES,
        },
        dies={"0": "0-5,12-17", "1": "6-11,18-23"},
        l3=[
            ("0-2,12-14", 8388608),
            ("3-5,15-17", 8388608),
            ("6-8,18-20", 8388608),
            ("9-11,21-23", 8388608),
        ],
        types=None,
        node_memory={"0": 33677115392, "1": 33786167296},
        node_distances={"0": {"0": 10, "1": 16}, "1": {"0": 16, "1": 10}},
        pinned=(
            Pinned("node:1", "6 18 7 19", "strict 1"),
            Pinned("online", "0 12 1 13 2 14 3 15 4 16 5 17 6 18 7 19 8 20 9 21 10 22 11 23", "strict 0-1"),
        ),
    ),
    "Threadripper 3960X in NPS4": Expected(
        cpus={
            "node:0": "0-5,24-29",
            "node:1": "6-11,30-35",
            "node:2": "12-17,36-41",
            "node:3": "18-23,42-47",
            "node:0-1,^l3:0": "3-11,27-35",
            "package:0": "0-47",
            "die:0": "0-47",
            "core:10": "10,34",
            "l3:0": "0-2,24-26",
            "l3:5": "3-5,27-29",
            "l3:47": "21-23,45-47",
            "all": "0-47",
            "online": "0-47",
        },
        errors={
            "node:4": "there is no NUMA node 4; online are 0-3",
            "package:1": "there is no package 1; there are 0",
            "die:1": "there is no die 1; there are 0",
            "l3:largest": "no single L3 domain is the largest: 8 have 16384 KiB",
            "type:efficiency": UNKNOWN_TYPES,
        },
        dies={"0": "0-47"},
        l3=[
            ("0-2,24-26", 16777216),
            ("3-5,27-29", 16777216),
            ("6-8,30-32", 16777216),
            ("9-11,33-35", 16777216),
            ("12-14,36-38", 16777216),
            ("15-17,39-41", 16777216),
            ("18-20,42-44", 16777216),
            ("21-23,45-47", 16777216),
        ],
        types=None,
        node_memory={"0": 0, "1": 67430776832, "2": 67603791872, "3": 0},
        node_distances={
            "0": {"0": 10, "1": 12, "2": 12, "3": 12},
            "1": {"0": 12, "1": 10, "2": 12, "3": 12},
            "2": {"0": 12, "1": 12, "2": 10, "3": 12},
            "3": {"0": 12, "1": 12, "2": 12, "3": 10},
        },
        pinned=(
            # Nodes 0 and 3 have no memory, and both others are as near.
            Pinned("node:0", "0 24 1 25", "preferred 1"),
            Pinned("node:3", "18 42 19 43", "preferred 1"),
            Pinned("core:5-6", "5 29 6 30", "preferred 1"),
            Pinned("core:11-12", "11 35 12 36", "strict 1-2"),
            Pinned("node:2", "12 36 13 37 14 38 15 39 16 40 17 41", "strict 2"),
        ),
    ),
    "two EPYC 7551": Expected(
        cpus={
            "node:0": "0-7,64-71",
            "node:5": "40-47,104-111",
            "node:4-7": "32-63,96-127",
            "package:0": "0-31,64-95",
            "package:1": "32-63,96-127",
            "package:0,^die:0-2": "24-31,88-95",
            "die:3": "24-31,88-95",
            "die:4": "32-39,96-103",
            "die:1.4": "32-39,96-103",
            "core:100": "36,100",
            "l3:0": "0-3,64-67",
            "l3:127": "60-63,124-127",
            "all": "0-127",
            "online": "0-127",
        },
        errors={
            "node:8": "there is no NUMA node 8; online are 0-7",
            "package:2": "there is no package 2; there are 0-1",
            "die:8": "there is no die 8; there are 0, 1, 2, 3, 4, 5, 6, 7",
            "die:0.4": "there is no die 0.4; there are 0, 1, 2, 3, 4, 5, 6, 7",
            "l3:largest": "no single L3 domain is the largest: 16 have 8192 KiB",
            "type:performance": UNKNOWN_TYPES,
        },
        dies={
            "0": "0-7,64-71",
            "1": "8-15,72-79",
            "2": "16-23,80-87",
            "3": "24-31,88-95",
            "4": "32-39,96-103",
            "5": "40-47,104-111",
            "6": "48-55,112-119",
            "7": "56-63,120-127",
        },
        l3=[
            ("0-3,64-67", 8388608),
            ("4-7,68-71", 8388608),
            ("8-11,72-75", 8388608),
            ("12-15,76-79", 8388608),
            ("16-19,80-83", 8388608),
            ("20-23,84-87", 8388608),
            ("24-27,88-91", 8388608),
            ("28-31,92-95", 8388608),
            ("32-35,96-99", 8388608),
            ("36-39,100-103", 8388608),
            ("40-43,104-107", 8388608),
            ("44-47,108-111", 8388608),
            ("48-51,112-115", 8388608),
            ("52-55,116-119", 8388608),
            ("56-59,120-123", 8388608),
            ("60-63,124-127", 8388608),
        ],
        types=None,
        node_memory={"0": 0, "1": 16735272960, "2": 0, "3": 0, "4": 0, "5": 16840130560, "6": 0, "7": 0},
        node_distances={
            "0": {"0": 10, "1": 16, "2": 16, "3": 16, "4": 32, "5": 32, "6": 32, "7": 32},
            "1": {"0": 16, "1": 10, "2": 16, "3": 16, "4": 32, "5": 32, "6": 32, "7": 32},
            "2": {"0": 16, "1": 16, "2": 10, "3": 16, "4": 32, "5": 32, "6": 32, "7": 32},
            "3": {"0": 16, "1": 16, "2": 16, "3": 10, "4": 32, "5": 32, "6": 32, "7": 32},
            "4": {"0": 32, "1": 32, "2": 32, "3": 32, "4": 10, "5": 16, "6": 16, "7": 16},
            "5": {"0": 32, "1": 32, "2": 32, "3": 32, "4": 16, "5": 10, "6": 16, "7": 16},
            "6": {"0": 32, "1": 32, "2": 32, "3": 32, "4": 16, "5": 16, "6": 10, "7": 16},
            "7": {"0": 32, "1": 32, "2": 32, "3": 32, "4": 16, "5": 16, "6": 16, "7": 10},
        },
        pinned=(
            Pinned("node:0", "0 64 1 65", "preferred 1"),
            Pinned("node:6", "48 112 49 113", "preferred 5"),
            Pinned("node:5", "40 104", "strict 5"),
            Pinned("core:0,core:32", "0 64 32 96", "strict 1,5"),
        ),
    ),
    "two Xeon Silver 4114": Expected(
        cpus={
            "node:0": EVEN,
            "node:1": ODD,
            "package:0": EVEN,
            "package:1": ODD,
            "die:0.0": EVEN,
            "die:1.0": ODD,
            "core:1": "1,21",
            "core:20": "0,20",
            "l3:0": EVEN,
            "l3:39": ODD,
            "node:0,^core:0": "2,4,6,8,10,12,14,16,18,22,24,26,28,30,32,34,36,38",
            "all": "0-39",
            "online": "0-39",
        },
        errors={
            "node:2": "there is no NUMA node 2; online are 0-1",
            "package:2": "there is no package 2; there are 0-1",
            "die:0": "several packages have a die 0; write one of die:0.0, die:1.0",
            "die:1": "there is no die 1; there are 0.0, 1.0",
            "die:2.0": "there is no die 2.0; there are 0.0, 1.0",
            "l3:largest": "no single L3 domain is the largest: 2 have 14080 KiB",
            "type:performance": UNKNOWN_TYPES,
        },
        dies={"0.0": EVEN, "1.0": ODD},
        l3=[(EVEN, 14417920), (ODD, 14417920)],
        types=None,
        node_memory={"0": 32699842560, "1": 33010221056},
        node_distances={"0": {"0": 10, "1": 21}, "1": {"0": 21, "1": 10}},
        pinned=(
            Pinned("die:1.0", "1 21 3 23", "strict 1"),
            Pinned("node:0,^core:0", "2 22 4 24", "strict 0"),
            # Numbers alternate between the packages.
            Pinned("online", "0 20 1 21", "strict 0-1"),
        ),
    ),
    "two Xeon Gold 6542Y with SNC": Expected(
        cpus={
            "node:0": "0-11,48-59",
            "node:1": "12-23,60-71",
            "node:2": "24-35,72-83",
            "node:3": "36-47,84-95",
            "package:0": "0-23,48-71",
            "package:1,^node:2": "36-47,84-95",
            "die:0.0": "0-23,48-71",
            "die:1.0": "24-47,72-95",
            "core:50": "2,50",
            "l3:0": "0-23,48-71",
            "l3:95": "24-47,72-95",
            "all": "0-95",
            "online": "0-95",
        },
        errors={
            "node:4": "there is no NUMA node 4; online are 0-3",
            "package:2": "there is no package 2; there are 0-1",
            "die:0": "several packages have a die 0; write one of die:0.0, die:1.0",
            "l3:largest": "no single L3 domain is the largest: 2 have 61440 KiB",
            "type:performance": UNKNOWN_TYPES,
        },
        dies={"0.0": "0-23,48-71", "1.0": "24-47,72-95"},
        l3=[("0-23,48-71", 62914560), ("24-47,72-95", 62914560)],
        types=None,
        node_memory={"0": 137438953472, "1": 137438953472, "2": 137438953472, "3": 137438953472},
        node_distances={
            "0": {"0": 10, "1": 12, "2": 21, "3": 21},
            "1": {"0": 12, "1": 10, "2": 21, "3": 21},
            "2": {"0": 21, "1": 21, "2": 10, "3": 12},
            "3": {"0": 21, "1": 21, "2": 12, "3": 10},
        },
        pinned=(
            Pinned("node:1", "12 60 13 61", "strict 1"),
            Pinned("l3:24,^node:2", "36 84", "strict 3"),
            Pinned("core:11-12", "11 59 12 60", "strict 0-1"),
        ),
    ),
    "two Xeon Max of Aurora": Expected(
        cpus={
            "node:0": "0-51,104-155",
            "node:1": "52-103,156-207",
            "node:0-3": "0-207",
            "package:1": "52-103,156-207",
            "die:0.0": "0-51,104-155",
            "die:1.0,^core:52": "53-103,157-207",
            "core:104": "0,104",
            "l3:52": "52-103,156-207",
            "all": "0-207",
            "online": "0-207",
        },
        errors={
            "node:2": "'node:2' leaves no CPU at all",
            "node:4": "there is no NUMA node 4; online are 0-3",
            "package:2": "there is no package 2; there are 0-1",
            "die:0": "several packages have a die 0; write one of die:0.0, die:1.0",
            "l3:largest": "no single L3 domain is the largest: 2 have 107520 KiB",
            "type:performance": UNKNOWN_TYPES,
        },
        dies={"0.0": "0-51,104-155", "1.0": "52-103,156-207"},
        l3=[("0-51,104-155", 110100480), ("52-103,156-207", 110100480)],
        types=None,
        node_memory={"0": 549755813888, "1": 549755813888, "2": 68719476736, "3": 68719476736},
        node_distances={
            "0": {"0": 10, "1": 21, "2": 13, "3": 23},
            "1": {"0": 21, "1": 10, "2": 23, "3": 13},
            "2": {"0": 13, "1": 23, "2": 10, "3": 23},
            "3": {"0": 23, "1": 13, "2": 23, "3": 10},
        },
        pinned=(
            Pinned("node:1", "52 156 53 157", "strict 1"),
            Pinned("core:51-52", "51 155 52 156", "strict 0-1"),
        ),
    ),
    "DGX Spark (GB10)": Expected(
        cpus={
            "node:0": "0-19",
            "package:36": "0-19",
            "core:7": "7",
            "l3:0": "0-9",
            "l3:10": "10-19",
            "l3:largest": "10-19",
            "type:performance": "5-9,15-19",
            "type:efficiency": "0-4,10-14",
            "type:performance,^l3:0": "15-19",
            "all": "0-19",
            "online": "0-19",
        },
        errors={
            "node:1": "there is no NUMA node 1; online are 0",
            "package:0": "there is no package 0; there are 36",
            "die:0": "there is no die 0; there are none",
            "core:20": "CPU 20 is not online; online are 0-19",
        },
        dies={},
        l3=[("0-9", 8388608), ("10-19", 16777216)],
        types={"performance": "5-9,15-19", "efficiency": "0-4,10-14"},
        node_memory={"0": 128520671232},
        node_distances={"0": {"0": 10}},
        pinned=(
            Pinned("type:performance", "5 6 7 8"),
            Pinned("type:performance,^l3:0", "15 16 17 18 19"),
        ),
    ),
    "Ampere Altra Q80-30": Expected(
        cpus={
            "node:0": "0-79",
            "package:0": "0-79",
            "core:79": "79",
            "online,^0-39": "40-79",
            "all": "0-79",
            "online": "0-79",
        },
        errors={
            "node:1": "there is no NUMA node 1; online are 0",
            "package:1": "there is no package 1; there are 0",
            "die:0": "there is no die 0; there are none",
            "core:80": "CPU 80 is not online; online are 0-79",
            "l3:0": "no L3 cache is known for CPU 0; online are 0-79",
            "l3:largest": "no L3 cache is known on this host",
            "type:performance": ONE_TYPE,
        },
        dies={},
        l3=[],
        types={},
        node_memory={"0": 137438953472},
        node_distances={"0": {"0": 10}},
        pinned=(Pinned("8-11", "8 9 10 11"),),
    ),
    "Ryzen AI 9 HX 370": Expected(
        cpus={
            "node:0": "0-23",
            "package:0": "0-23",
            "die:0": "0-23",
            "core:4": "4,16",
            "l3:12": "0-3,12-15",
            "l3:4": "4-11,16-23",
            "l3:largest": "0-3,12-15",
            "type:performance": "0-3,12-15",
            "type:efficiency": "4-11,16-23",
            "type:efficiency,^core:4": "5-11,17-23",
            "all": "0-23",
            "online": "0-23",
        },
        errors={
            "node:1": "there is no NUMA node 1; online are 0",
            "package:1": "there is no package 1; there are 0",
            "die:1": "there is no die 1; there are 0",
            "l3:24": "no L3 cache is known for CPU 24; online are 0-23",
        },
        dies={"0": "0-23"},
        l3=[("0-3,12-15", 16777216), ("4-11,16-23", 8388608)],
        types={"performance": "0-3,12-15", "efficiency": "4-11,16-23"},
        node_memory={"0": 34359738368},
        node_distances={"0": {"0": 10}},
        pinned=(
            Pinned("type:performance", "0 12 1 13 2 14 3 15"),
            Pinned("l3:4", "4 16 5 17"),
        ),
    ),
    "Apple M1": Expected(
        cpus={
            "node:0": "0-7",
            "package:0": "0-7",
            "core:4": "4",
            "type:performance": "4-7",
            "type:efficiency": "0-3",
            "online,^type:efficiency": "4-7",
            "all": "0-7",
            "online": "0-7",
        },
        errors={
            "node:1": "there is no NUMA node 1; online are 0",
            "package:1": "there is no package 1; there are 0",
            "die:0": "there is no die 0; there are none",
            "l3:0": "no L3 cache is known for CPU 0; online are 0-7",
            "l3:largest": "no L3 cache is known on this host",
        },
        dies={},
        l3=[],
        types={"performance": "4-7", "efficiency": "0-3"},
        node_memory={"0": 17179869184},
        node_distances={"0": {"0": 10}},
        pinned=(Pinned("type:performance", "4 5 6 7"),),
    ),
}
NAMES = [machine.name for machine in MACHINES]
CPUS = [(name, expression, cpus) for name, known in EXPECTED.items() for expression, cpus in known.cpus.items()]
ERRORS = [(name, expression, words) for name, known in EXPECTED.items() for expression, words in known.errors.items()]
PINNED = [(name, pinned) for name, known in EXPECTED.items() for pinned in known.pinned]

On = Callable[[str], SysfsTopology]


@pytest.fixture(scope="module", name="on")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> On:
    """The topology of a machine, by its name; its files are written once."""
    written: Dict[str, FakeHost] = {}

    def on(name: str) -> SysfsTopology:
        if name not in written:
            (machine,) = (machine for machine in MACHINES if machine.name == name)
            root: Path = tmp_path_factory.mktemp("machine")
            written[name] = FakeHost(str(root), files(machine))
        return SysfsTopology(written[name])

    return on


def test_every_machine_is_expected_something_of() -> None:
    assert list(EXPECTED) == NAMES


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
def test_each_online_cpu_is_recorded_in_one_place(machine: Any) -> None:
    online = numbers(machine.online)
    for lists in (machine.cores, machine.packages.values(), machine.nodes.values()):
        assert sorted(cpu for cpus in lists for cpu in numbers(cpus)) == online
    # Either every CPU is recorded, or none.
    l3 = [cpus for cpus, _size in machine.l3]
    for lists in (machine.dies.values(), l3, machine.perf_units.values(), machine.capacity, machine.highest_perf):
        assert sorted(cpu for cpus in lists for cpu in numbers(cpus)) in (online, [])


@pytest.mark.parametrize(("name", "expression", "cpus"), CPUS, ids=[f"{name} {what}" for name, what, _cpus in CPUS])
def test_cpus(on: On, name: str, expression: str, cpus: str) -> None:
    assert format_list(evaluate(expression, on(name), "cpus")) == cpus


@pytest.mark.parametrize(
    ("name", "expression", "words"), ERRORS, ids=[f"{name} {what}" for name, what, _words in ERRORS]
)
def test_what_a_machine_does_not_have(on: On, name: str, expression: str, words: str) -> None:
    with pytest.raises(IsolationError, match=re.escape(words)):
        evaluate(expression, on(name), "cpus")


@pytest.mark.parametrize(("name", "known"), EXPECTED.items(), ids=list(EXPECTED))
def test_facts(on: On, name: str, known: Expected) -> None:
    facts = on(name).facts()
    assert facts["dies"] == known.dies
    assert facts["l3"] == [{"cpus": cpus, "bytes": size} for cpus, size in known.l3]
    assert facts["types"] == known.types
    assert facts["node_memory"] == known.node_memory
    assert facts["node_distances"] == known.node_distances


@pytest.mark.parametrize(("name", "pinned"), PINNED, ids=[f"{name} {pinned.cpus}" for name, pinned in PINNED])
def test_pinning(on: On, name: str, pinned: Pinned) -> None:
    try:
        from ansible_collections.vfio.isolation.plugins.filter.cputune import cputune
    except ImportError:
        pytest.skip("filters import ansible-core, which ansible-test hides from tests of module_utils")
    pins = pinned.pins.split()
    domain = ET.fromstring(f"<domain>{cputune(on(name).facts(), len(pins), cpus=pinned.cpus)}</domain>")
    found = {int(pin.attrib["vcpu"]): pin.attrib["cpuset"] for pin in domain.iterfind("cputune/vcpupin")}
    assert found == dict(enumerate(pins))
    memory = domain.find("numatune/memory")
    assert (None if memory is None else f"{memory.attrib['mode']} {memory.attrib['nodeset']}") == pinned.numatune
