# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a domain is configured to, as anybody may have written it: it is done, or refused in a sentence."""

from __future__ import annotations

import io
import json
import os
from typing import Any, Dict

from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.events import LONGEST_TIMEOUT, Event
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.libvirt import Libvirt
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import LIBVIRT
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import Baseline
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import (
    changed_json,
    changed_text,
    texts,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

CONFIGURED: Dict[str, Any] = {
    "required": True,
    "timeout": 60,
    "isolate_vm_cpus": "4-5",
    "isolate_emulator_cpus": "0",
    "isolate_strategy": "auto",
    "isolate_partition_type": "auto",
    "isolate_cgroup": "/machine.slice",
    "isolate_host_cgroup": "host.slice",
    "isolate_host_mems": "",
    "isolate_memory_migrate": False,
    "isolate_governor": "performance",
    "isolate_irqs": True,
    "isolate_drop_caches": False,
    "isolate_compact_memory": False,
}
XML = (
    "<domain><name>one</name><resource><partition>/machine</partition></resource>"
    "<cputune><vcpupin vcpu='0' cpuset='4'/><emulatorpin cpuset='0'/></cputune></domain>"
)


def put(kernel: FakeKernel, path: str, text: str) -> None:
    """A file of ours."""
    os.makedirs(os.path.dirname(kernel.root + path), exist_ok=True)
    with open(kernel.root + path, "wb") as stream:
        stream.write(text.encode("utf-8", "surrogatepass"))


def happens_or_is_refused(text: str, xml: str) -> None:
    """A domain starts and ends."""
    with booted(Baseline(machine_slice=True)) as kernel:
        put(kernel, LIBVIRT.file("one"), text)
        put(kernel, LIBVIRT.lock, "")
        before = kernel.snapshot()
        for operation in ("prepare", "release"):
            event = Event("one", operation, kernel, Libvirt(kernel, io.BytesIO(xml.encode("utf-8", "surrogatepass"))))
            try:
                event.configure()
                assert 0 < event.timeout <= LONGEST_TIMEOUT and isinstance(event.required, bool)
                event.carry_out()
            except IsolationError as error:
                assert str(error) and kernel.snapshot() == before
        engine(kernel).revert()
        assert kernel.snapshot() == before


@given(changed_json(CONFIGURED))
def test_any_configuration(content: Any) -> None:
    happens_or_is_refused(json.dumps(content), XML)


@given(st.sampled_from(sorted(CONFIGURED)), texts() | values())
def test_any_value_of_a_variable(variable: str, value: Any) -> None:
    happens_or_is_refused(json.dumps({**CONFIGURED, "isolate_vm_cpus": None, variable: value}), XML)


@given(changed_text(json.dumps(CONFIGURED)) | texts(), changed_text(XML))
def test_any_text_of_a_configuration_and_of_the_xml(text: str, xml: str) -> None:
    happens_or_is_refused(text, XML)
    happens_or_is_refused("{}", xml)


@given(texts(), st.sampled_from(["prepare", "started", "release"]))
def test_any_name_of_a_domain(name: str, operation: str) -> None:
    with booted() as kernel:
        put(kernel, LIBVIRT.default, "{}")
        before = kernel.snapshot()
        event = Event(name, operation, kernel, Libvirt(kernel, io.BytesIO(b"")))
        try:
            event.configure()
            event.carry_out()
        except IsolationError as error:
            assert str(error)
        assert kernel.snapshot() == before
