# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cpufreq policies, on real files."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.cpufreq import CPUFREQ, Cpufreq, PolicyFile
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost


def test_policies_come_by_number_with_their_cpus(tmp_path: Path) -> None:
    files = {f"{CPUFREQ}/policy{n}/related_cpus": f"{n} {n + 1}\n" for n in (10, 2)}
    files[f"{CPUFREQ}/boost"] = "1"
    assert Cpufreq(FakeHost(str(tmp_path), files)).policies() == [("policy2", {2, 3}), ("policy10", {10, 11})]


def test_a_host_without_cpufreq_has_no_policies(tmp_path: Path) -> None:
    assert Cpufreq(FakeHost(str(tmp_path), {})).policies() == []


def test_a_policy_s_file_is_read_and_written(tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path), {f"{CPUFREQ}/policy0/scaling_governor": "schedutil\n"})
    governor = PolicyFile(host, "scaling_governor", 0)
    assert governor.read("policy0") == "schedutil" and governor.read("policy1") is None
    governor.write("policy0", "performance")
    assert governor.read("policy0") == "performance"


def test_only_a_policy_is_a_policy_s_name(tmp_path: Path) -> None:
    governor = PolicyFile(FakeHost(str(tmp_path), {}), "scaling_governor", 0)
    assert governor.valid_name("policy12")
    assert not any(governor.valid_name(name) for name in ("policy", "policy1/x", "../policy1", "cpu0", ""))
    assert not any(governor.valid_value(value) for value in ("", "a b", "a/b", "a\n"))


@pytest.mark.parametrize("name", ["policy²", "policy٣", "policy1²", "policy-1", "policy"])
def test_a_name_that_only_looks_like_a_policy_s_is_none(tmp_path: Path, name: str) -> None:
    files = {f"{CPUFREQ}/{one}/related_cpus": "2" for one in ("policy2", name)}
    host = FakeHost(str(tmp_path), files)
    assert Cpufreq(host).policies() == [("policy2", {2})]
    assert not PolicyFile(host, "scaling_governor").valid_name(name)
