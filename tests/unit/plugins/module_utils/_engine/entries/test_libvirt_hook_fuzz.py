# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hook with any arguments and any standard input: an exit code and nothing on standard output, whatever comes."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, List
from unittest import mock

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.entries import libvirt_hook
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel import host
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import JOURNAL, LIBVIRT
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import booted
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_json,
    changed_text,
    texts,
)
from hypothesis import given
from hypothesis import strategies as st

EVENTS = (["one", "prepare", "begin", "-"], ["one", "started", "begin", "-"], ["one", "release", "end", "-"])
XML = "<domain><name>one</name><cputune><vcpupin vcpu='0' cpuset='4'/><emulatorpin cpuset='0'/></cputune></domain>"


def exit_code(arguments: List[str], given_: bytes, configuration: bytes, journal: bytes = b"") -> int:
    """The hook on a host with a configuration for all domains."""
    with booted(Baseline(machine_slice=True)) as kernel, mock.patch.object(host, "Host", return_value=kernel):
        for path, text in ((LIBVIRT.default, configuration), (LIBVIRT.lock, b""), (JOURNAL, journal)):
            os.makedirs(os.path.dirname(kernel.root + path), exist_ok=True)
            if text or path == LIBVIRT.lock:
                with open(kernel.root + path, "wb") as stream:
                    stream.write(text)
        said, complained, stdin = io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(given_))
        with mock.patch.object(sys, "stdin", stdin), redirect_stdout(said), redirect_stderr(complained):
            code = libvirt_hook.main(arguments, kernel.root)
        assert said.getvalue() == "" and bool(complained.getvalue()) == bool(code) and code in (0, 1)
        assert complained.getvalue().count("\n") == code
        return code


@given(st.sampled_from(EVENTS), st.integers(0, 3), texts(), st.integers(0, 5), st.binary())
def test_any_arguments(event: List[str], place: int, word: str, number: int, given_: bytes) -> None:
    exit_code([*event[:place], word, *event[place + 1 :]][:number], given_, b"{}")


@given(st.sampled_from(EVENTS), changed_text(XML).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary())
def test_any_standard_input(arguments: List[str], given_: bytes) -> None:
    exit_code(arguments, given_, b"{}")


@given(st.sampled_from(EVENTS), changed_json({"required": False, "isolate_cgroup": "/machine.slice"}), texts())
def test_any_configuration_and_any_journal(arguments: List[str], configuration: Any, journal: str) -> None:
    exit_code(arguments, XML.encode(), json.dumps(configuration).encode(), journal.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("option", ["a\0b", "\ud800", "a\nb"])
def test_what_cannot_be_logged_as_it_is_keeps_no_domain_from_starting(option: str) -> None:
    """No lone surrogate can be encoded, and what is said is one line."""
    configuration = json.dumps({"required": False, "isolate_vm_cpus": option}).encode()
    assert exit_code(EVENTS[0], XML.encode(), configuration) == 0
    assert exit_code(EVENTS[0], XML.encode(), json.dumps({option: 1}).encode()) == 1
