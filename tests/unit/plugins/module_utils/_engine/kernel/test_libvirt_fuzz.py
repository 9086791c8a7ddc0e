# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stands in libvirt's directories: names and files of any kind."""

from __future__ import annotations

import os

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.libvirt import DIRECTORIES, RUNNING, Domains
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.topology import CPU, SysfsTopology
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.expression import evaluate
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import changed_text, texts
from hypothesis import given
from hypothesis import strategies as st

XML = "<domain><name>x</name><vcpu cpuset='4-7'>2</vcpu><cputune><vcpupin vcpu='0' cpuset='4'/></cputune></domain>"
CANNOT_BE = set("/\0\ud800")


def file_names() -> st.SearchStrategy[str]:
    """Names that a file can have."""
    return texts().filter(
        lambda name: (
            name not in ("", ".", "..")
            and not {"/", "\0"} & set(name)
            and not any("\ud800" <= c < "\udc80" or (c > "\udcff" and c < "\ue000") for c in name)
            and len(os.fsencode(name)) < 240
        )
    )


@given(file_names(), changed_text(XML) | texts(), texts() | st.sampled_from(["5", "²", " 5\n"]))
def test_any_file_of_any_name(tmp_path_factory: pytest.TempPathFactory, name: str, xml: str, pid: str) -> None:
    host = FakeHost(str(tmp_path_factory.mktemp("host")), {f"{CPU}/online": "0-7"})
    for directory in DIRECTORIES:
        os.makedirs(host.path(directory), exist_ok=True)
    for path, text in ((f"{DIRECTORIES[0]}/{name}.xml", xml), (f"{RUNNING}/{name}.pid", pid)):
        with open(host.path(path), "wb") as stream:
            stream.write(text.encode("utf-8", "surrogatepass"))
    domains = Domains(host)
    assert domains.names() == (name,) and domains.running() == {name}
    for part in ("", ":emulator"):
        try:
            assert evaluate([f"vm:{name}{part}"], SysfsTopology(host), "cpus") <= frozenset(range(8))
        except IsolationError as error:
            assert str(error).startswith("cpus: ") and "codec" not in str(error)
    try:
        assert domains.process(name) in (None, 5) or pid.strip().isdigit()
    except ValueError as error:
        assert "is not the name of a libvirt domain" in str(error)
