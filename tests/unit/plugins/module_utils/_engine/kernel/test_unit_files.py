# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which files systemd reads for a unit, and which of them has the last word."""

from __future__ import annotations

from typing import Any, List, Set

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.systemd import FINAL_DROP_IN, Systemd
from ansible_collections.vfio.isolation.plugins.module_utils._engine.kernel.unit_files import (
    RUNTIME,
    assigned,
    names_with_drop_ins,
)
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_host import FakeHost
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import (
    SOURCES,
    engine,
    step,
    whole_job,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.systemd import (
    Systemd as FakeSystemd,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    Baseline,
    Given,
)


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        ("own.slice", ["own.slice", "slice"]),
        ("-.slice", ["-.slice", "slice"]),
        ("user-1000.slice", ["user-1000.slice", "user-.slice", "slice"]),
        ("a-b-c.slice", ["a-b-c.slice", "a-b-.slice", "a-.slice", "slice"]),
        ("a--b-.slice", ["a--b-.slice", "a--.slice", "a-.slice", "slice"]),
        ("-a.scope", ["-a.scope", "scope"]),
        ("a@1.service", ["a@1.service", "a@.service", "service"]),
        ("a-b@c-d.service", ["a-b@c-d.service", "a-b@.service", "a-@c-d.service", "a-@.service", "service"]),
    ],
)
def test_what_drop_ins_of_a_unit_may_be_named_after(unit: str, names: List[str]) -> None:
    assert names_with_drop_ins(unit) == names


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[Slice]\nAllowedCPUs=\nAllowedCPUs = 1 2 \n", ["", "1 2"]),
        ("[Slice]\nAllowedCPUs=1 \\\n2\n", ["1  2"]),
        ("[Slice]\n#AllowedCPUs=1\n; AllowedCPUs=2\nAllowedCPUs\nAllowedCPUsX=3\nX=AllowedCPUs=4", []),
    ],
)
def test_what_a_file_assigns(text: str, values: List[str]) -> None:
    assert assigned(text, "AllowedCPUs") == values


@pytest.mark.parametrize(
    ("path", "wins"),
    [
        ("/etc/systemd/system/a-b.slice.d/51-x.conf", True),
        ("/etc/systemd/system/a-b.slice.d/10-x.conf", True),
        ("/etc/systemd/system/a-b.slice.d/51-x.conf~", False),
        ("/etc/systemd/system/a-b.slice.d/50-AllowedCPUs.conf", False),
        ("/etc/systemd/system/a-b.slice", True),
        ("/usr/lib/systemd/system/a-.slice", False),
        ("/etc/systemd/system/b.slice.d/51-x.conf", False),
        ("/etc/systemd/system/service.d/51-x.conf", False),
        ("/etc/systemd/system.attached/a-b.slice.d/51-x.conf", True),
        ("/run/systemd/system.control/a-b.slice.d/51-x.conf", True),
        ("/run/systemd/system.control/a-b.slice.d/50-AllowedCPUs.conf", False),
        ("/run/systemd/system.control/a-b.slice.d/zzz-vfio-isolation-AllowedCPUs.conf", False),
        ("/run/systemd/generator.early/a-.slice.d/51-x.conf", True),
        ("/run/systemd/generator/slice.d/51-x.conf", True),
        ("/run/systemd/generator.late/a-b.slice.d/51-x.conf", True),
        ("/lib/systemd/system/a-b.slice.d/51-x.conf", True),
        ("/etc/systemd/system.control/a-b.slice.d/50-AllowedCPUs.conf", True),
        ("/etc/systemd/system.control/a-.slice.d/50-AllowedCPUs.conf", True),
        ("/etc/systemd/system.control/slice.d/50-AllowedCPUs.conf", False),
    ],
)
def test_who_else_has_a_say(tmp_path: Any, path: str, wins: bool) -> None:
    host = FakeHost(str(tmp_path), {path: "[Slice]\nAllowedCPUs=1\n"})
    assert Systemd(host).overruled("a-b.slice", "AllowedCPUs") == wins
    assert not Systemd(host).overruled("a-b.slice", "AllowedMemoryNodes")
    assert host.commands == [], "systemctl takes longer than all else"


def test_an_empty_drop_in_hides_those_of_its_name(tmp_path: Any) -> None:
    late = "/usr/lib/systemd/system/own.slice.d/90-x.conf"
    host = FakeHost(str(tmp_path), {late: "[Slice]\nAllowedCPUs=1\n", "/etc/systemd/system/own.slice.d/90-x.conf": ""})
    assert not Systemd(host).overruled("own.slice", "AllowedCPUs")


def test_systemd_is_asked_for_other_names_only_if_they_matter(tmp_path: Any) -> None:
    files = {f"/etc/systemd/system/{name}.d/90-x.conf": "[Service]\nCPUWeight=1" for name in ("b.service", "c.socket")}
    host = FakeHost(str(tmp_path), files)
    host.answers["show"] = (0, "b.service a.service\n", "")
    assert not Systemd(host).overruled("a.service", "AllowedCPUs") and host.commands == []
    host.put("/etc/systemd/system/b.service.d/90-x.conf", "[Service]\nAllowedCPUs=1")
    assert Systemd(host).overruled("a.service", "AllowedCPUs")
    assert host.commands == [("systemctl", "show", "--value", "-p", "Names", "--", "a.service")]


def cpus(kernel: FakeKernel, cgroup: str) -> str:
    """A cgroup's list."""
    return kernel.read(f"{CGROUP}/{cgroup}/cpuset.cpus") or ""


@pytest.mark.parametrize(
    ("unit", "place"), [("user-1000.slice", "user.slice/user-1000.slice"), ("own.slice", "own.slice")]
)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("resets", [True, False])
def test_wherever_a_unit_s_list_is_said_ours_lasts_and_goes(resets: bool, source: str, unit: str, place: str) -> None:
    job = [step("cpuset", path=place, cpus="0-3")]
    with booted(Baseline(units=((unit, Given(source, "2-5")),), resets=resets)) as kernel:
        before = kernel.snapshot()
        assert cpus(kernel, place) == "2-5"
        assert engine(kernel).apply("vm", job).changed and cpus(kernel, place) == "0-3"
        kernel.part(FakeSystemd).reload()
        assert cpus(kernel, place) == "0-3"
        assert not engine(kernel).apply("vm", job).changed
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_the_drop_in_of_another_name_of_a_service_does_not_win() -> None:
    job = [step("cpuset", path="/system.slice/a.service", cpus="0-3")]
    with booted(Baseline(units=(("a.service", Given("alias", "2-5")),))) as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", job)
        kernel.part(FakeSystemd).reload()
        assert cpus(kernel, "system.slice/a.service") == "0-3"
        assert not engine(kernel).apply("vm", job).changed
        engine(kernel).revert()
        assert kernel.snapshot() == before


def test_a_drop_in_that_is_read_after_all_of_ours_is_named() -> None:
    late = "/etc/systemd/system/own.slice.d/zzzz.conf"
    with booted() as kernel:
        kernel.part(Files).put(late, "[Slice]\nAllowedCPUs=2-5")
        before = kernel.snapshot()
        with pytest.raises(IsolationError, match=f"{late} sets AllowedCPUs of own.slice, and systemd reads it last"):
            engine(kernel).apply("vm", whole_job("4-7", "slices"))
        assert kernel.snapshot() == before and kernel.log == []


@pytest.mark.parametrize("strategy", ["partition", "slices"])
@pytest.mark.parametrize(("said", "left"), [("0-6", "0-3"), ("2-5", "2-3"), ("5-6", "0-3")])
def test_a_list_that_systemd_has_yet_to_apply_is_kept_off_the_cpus(strategy: str, said: str, left: str) -> None:
    """After a daemon-reload, systemd 257 applies a unit's files when it looks at the unit the next time."""
    with booted() as kernel:
        kernel.part(Files).put("/etc/systemd/system/own.slice.d/mine.conf", f"[Slice]\nAllowedCPUs={said}")
        engine(kernel).apply("vm", whole_job("4-7", strategy))
        assert cpus(kernel, "own.slice") == left
        kernel.part(FakeSystemd).reload()
        assert cpus(kernel, "own.slice") == left and engine(kernel).inspect()[1].changes == []
        assert not engine(kernel).apply("vm", whole_job("4-7", strategy)).changed
        engine(kernel).revert()
        kernel.part(FakeSystemd).reload()
        assert cpus(kernel, "own.slice") == said


@pytest.mark.parametrize(
    ("text", "listed"),
    [("0, 2-3", {0, 2, 3}), ("1\nAllowedCPUs=2", {1, 2}), ("1\nAllowedCPUs=\nAllowedCPUs=2", {2}), ("0-6 x", set())],
)
def test_the_list_that_a_unit_s_files_give_it(tmp_path: Any, text: str, listed: Set[int]) -> None:
    ours = [f"{RUNTIME}/a.slice.d/{name}-AllowedCPUs.conf" for name in ("50", FINAL_DROP_IN)]
    files = dict.fromkeys(ours, "[Slice]\nAllowedCPUs=7")
    files["/etc/systemd/system/a.slice.d/x.conf"] = f"[Slice]\nAllowedCPUs={text}"
    host = FakeHost(str(tmp_path), files)
    assert Systemd(host).to_come("a.slice", "AllowedCPUs") == listed


JOBS = {
    "partition": (whole_job("4-7", "partition"), ("-.slice", "machine.slice")),
    "slices": (whole_job("4-7", "slices"), ("-.slice", "user.slice", "init.scope")),
    "cpuset": (
        [step("cpuset", path="/user.slice/user-1000.slice", cpus="1")],
        ("-.slice", "user.slice", "user-1000.slice"),
    ),
}


@pytest.mark.parametrize(("job", "unit"), [(job, unit) for job, units in JOBS.values() for unit in units])
def test_a_cpuset_that_systemd_would_take_away_is_refused(job: List[Step], unit: str) -> None:
    with booted() as kernel:
        drop_in = f"/etc/systemd/system/{unit}.d/x.conf"
        kernel.part(Files).put(drop_in, "[Slice]\nDisableControllers=cpu\nDisableControllers=io cpuset")
        kernel.part(FakeSystemd).reload()
        before = kernel.snapshot()
        with pytest.raises(IsolationError, match=f" {unit} has DisableControllers=cpuset; remove that"):
            engine(kernel).apply("vm", job)
        assert kernel.snapshot() == before and kernel.log == []
        kernel.part(Files).put(
            drop_in, "[Slice]\nDisableControllers=cpuset\nDisableControllers=\nDisableControllers=io"
        )
        engine(kernel).apply("vm", job)


def test_disabling_it_later_keeps_no_claim_from_being_reverted() -> None:
    with booted() as kernel:
        before = kernel.snapshot()
        engine(kernel).apply("vm", whole_job("4-5", "partition"))
        engine(kernel).apply("other", [step("cpu_governor", cpus="0", governor="powersave")])
        kernel.part(Files).put("/etc/systemd/system/-.slice.d/x.conf", "[Slice]\nDisableControllers=cpuset")
        warnings = engine(kernel).revert(["other"]).warnings
        assert len(warnings) == 1 and "-.slice has DisableControllers=cpuset" in warnings[0], warnings
        engine(kernel).revert()
        kernel.part(Files).remove("/etc/systemd/system/-.slice.d/x.conf")
        assert {k: v for k, v in kernel.snapshot().items() if not k.startswith("/etc")} == before
