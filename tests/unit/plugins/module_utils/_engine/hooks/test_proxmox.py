# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the events of Proxmox VE do to a host, on the model kernel."""

from __future__ import annotations

import contextlib
import io
import json
import os
from typing import Any, Dict, Iterator, List

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.events import Event
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.libvirt import Libvirt
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.proxmox import Proxmox
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import JOURNAL, LIBVIRT, PROXMOX
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cgroups import Cgroups
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.files import Files
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    Baseline,
)

SLICE = f"{CGROUP}/qemu.slice"
OURS = "hookscript: local:snippets/vfio-isolation\n"
XML = "<domain><name>{}</name><cputune><vcpupin vcpu='0' cpuset='1'/><emulatorpin cpuset='2'/></cputune></domain>"


def defined(kernel: FakeKernel, name: str, affinity: str, more: str = OURS) -> None:
    """A virtual machine of this host."""
    pin = f"affinity: {affinity}\n" if affinity else ""
    kernel.part(Files).put(f"/etc/pve/qemu-server/{name}.conf", f"{pin}cores: 2\n{more}".rstrip("\n"))


def configured(kernel: FakeKernel, path: str, **given: Any) -> None:
    """A configuration file of ours."""
    os.makedirs(os.path.dirname(kernel.root + path), exist_ok=True)
    with open(kernel.root + path, "w", encoding="utf-8") as stream:
        json.dump({"isolate_compact_memory": False, **given}, stream)


def happens(kernel: FakeKernel, name: str, operation: str) -> List[str]:
    """What an event of Proxmox VE logs."""
    event = Event(name, operation, kernel, Proxmox(kernel))
    event.configure()
    return event.carry_out()


def happens_in_libvirt(kernel: FakeKernel, name: str, operation: str) -> List[str]:
    """What an event of libvirt logs; its domains have CPU 1, and CPU 2 for the emulator."""
    event = Event(name, operation, kernel, Libvirt(kernel, io.BytesIO(XML.format(name).encode())))
    event.configure()
    return event.carry_out()


def runs(kernel: FakeKernel, name: str, process: int) -> None:
    """QEMU runs where Proxmox VE starts it."""
    kernel.part(Cgroups).make(f"/qemu.slice/{name}.scope")
    kernel.add_thread(process, f"/qemu.slice/{name}.scope", "0-7")
    kernel.part(Files).put(f"/run/qemu-server/{name}.pid", f"{process}")
    arguments = f"kvm\0-id\0{name}\0-pidfile\0/var/run/qemu-server/{name}.pid\0"
    kernel.part(Files).put(f"/proc/{process}/cmdline", arguments)


def ends(kernel: FakeKernel, name: str, process: int) -> None:
    """QEMU has ended."""
    kernel.part(Cgroups).remove(f"/qemu.slice/{name}.scope")
    for path in (f"/run/qemu-server/{name}.pid", f"/proc/{process}/cmdline"):
        kernel.part(Files).remove(path)


def claims(kernel: FakeKernel) -> Dict[str, Any]:
    """The claims of the journal."""
    try:
        with open(kernel.root + JOURNAL, encoding="utf-8") as stream:
            return dict(json.load(stream)["claims"])
    except FileNotFoundError:
        return {}


def partition(kernel: FakeKernel, cgroup: str = SLICE) -> str:
    """The kind of partition that the VMs are in."""
    return str(kernel.read(f"{cgroup}/cpuset.cpus.partition"))


@contextlib.contextmanager
def two_vms() -> Iterator[FakeKernel]:
    """A host with VMs 100 and 101, which are configured."""
    with booted(Baseline(machine_slice=True)) as kernel:
        kernel.part(Cgroups).make("/qemu.slice")
        defined(kernel, "100", "4-5")
        defined(kernel, "101", "6-7")
        for name in ("100", "101"):
            configured(kernel, PROXMOX.file(name))
        yield kernel


def test_a_vm_comes_and_goes() -> None:
    with two_vms() as kernel:
        before = kernel.snapshot()
        lines = happens(kernel, "100", "prepare")
        assert lines == [
            "partition type root, because its QEMU process is pinned to several CPUs, 4-5 (affinity)",
            lines[-1],
        ]
        assert lines[-1].endswith("strategy partition, CPUs of VMs 4-5, of the host 0-3,6-7")
        assert claims(kernel)["100"]["maker"] == "proxmox"
        steps = engine(kernel).inspect()[0].claims["100"].steps
        (reserve,) = (step.arguments for step in steps if step.name == "reserve_cpus")
        assert (reserve["cpus"], reserve["emulator_cpus"], reserve["cgroup"]) == ("4-5", "", "/qemu.slice")
        assert (kernel.read(f"{SLICE}/cpuset.cpus"), partition(kernel)) == ("4-5", "root")
        (line,) = happens(kernel, "100", "release")
        assert line.endswith("settings restored")
        assert kernel.snapshot() == before and not claims(kernel)
        assert happens(kernel, "100", "release") == []


def test_a_vm_on_one_cpu_is_in_an_isolated_partition() -> None:
    with two_vms() as kernel:
        defined(kernel, "100", "4")
        assert "partition type" not in "".join(happens(kernel, "100", "prepare"))
        assert partition(kernel) == "isolated"


def test_the_first_vm_of_a_host_finds_no_slice() -> None:
    with booted() as kernel:
        defined(kernel, "100", "4-5")
        configured(kernel, PROXMOX.default)
        before = kernel.snapshot()
        happens(kernel, "100", "prepare")
        assert partition(kernel) == "root"
        happens(kernel, "100", "release")
        assert kernel.snapshot() == before


def test_two_vms_crossed() -> None:
    with two_vms() as kernel:
        before = kernel.snapshot()
        happens(kernel, "100", "prepare")
        runs(kernel, "100", 500)
        lines = happens(kernel, "101", "prepare")
        assert lines[-1].endswith("strategy partition, CPUs of VMs 4-7, of the host 0-3")
        assert (kernel.read(f"{SLICE}/cpuset.cpus"), partition(kernel)) == ("4-7", "root")
        runs(kernel, "101", 501)
        ends(kernel, "100", 500)
        happens(kernel, "100", "release")
        assert (kernel.read(f"{SLICE}/cpuset.cpus"), partition(kernel)) == ("6-7", "root")
        assert set(claims(kernel)) == {"101"}
        ends(kernel, "101", 501)
        happens(kernel, "101", "release")
        assert kernel.snapshot() == before and not claims(kernel)


def test_what_runs_in_the_slice_under_nobody_s_pid_file_has_no_partition_around_it() -> None:
    with two_vms() as kernel:
        happens(kernel, "100", "prepare")
        runs(kernel, "100", 500)
        kernel.part(Files).remove("/run/qemu-server/100.pid")
        lines = happens(kernel, "101", "prepare")
        assert "strategy slices, because no CPUs are reserved for what runs in /qemu.slice/100.scope" in lines
        assert "the claim 100 continues without a partition" in lines
        assert partition(kernel) == "member"


def test_a_vm_that_is_not_configured_is_left_alone() -> None:
    with two_vms() as kernel:
        defined(kernel, "102", "0-1")
        before = kernel.snapshot()
        for operation in ("prepare", "release"):
            assert happens(kernel, "102", operation) == []
        assert kernel.snapshot() == before and not claims(kernel)


def test_claims_of_others_do_without_a_partition_beside_a_vm_that_is_not_configured() -> None:
    with two_vms() as kernel:
        defined(kernel, "102", "0-1")
        before = kernel.snapshot()
        happens(kernel, "100", "prepare")
        assert partition(kernel) == "root"
        lines = happens(kernel, "102", "prepare")
        assert lines == ["the claim 100 continues without a partition"]
        assert partition(kernel) == "member" and set(claims(kernel)) == {"100"}
        assert kernel.read(f"{CGROUP}/system.slice/cpuset.cpus") == "0-3,6-7"
        assert happens(kernel, "102", "prepare") == []
        happens(kernel, "100", "release")
        assert kernel.snapshot() == before


def test_a_partition_that_was_asked_for_stays() -> None:
    with two_vms() as kernel:
        defined(kernel, "102", "0-1", "")
        configured(kernel, PROXMOX.file("100"), isolate_strategy="partition")
        lines = happens(kernel, "100", "prepare")
        assert (
            "a partition, though nobody would notice the start of VM 102, without this hookscript" in lines
            and partition(kernel) == "root"
        )
        assert happens(kernel, "102", "prepare") == [
            "/qemu.slice is in a partition that has CPUs 4-5: it can have no others"
        ]
        assert partition(kernel) == "root"


@pytest.mark.parametrize("more", ["", "hookscript: local:snippets/theirs\n", f"[before]\n{OURS}"])
def test_no_partition_if_a_vm_could_start_without_the_hookscript(more: str) -> None:
    with two_vms() as kernel:
        defined(kernel, "102", "0-1", more)
        defined(kernel, "103", "", more)
        lines = happens(kernel, "100", "prepare")
        assert "strategy slices, because nobody would notice the start of VM 102, VM 103, without this hookscript" in (
            lines
        )
        assert partition(kernel) == "member" and kernel.read(f"{CGROUP}/system.slice/cpuset.cpus") == "0-3,6-7"


def test_neither_a_template_nor_a_vm_of_another_host_could_start_unnoticed() -> None:
    with two_vms() as kernel:
        defined(kernel, "900", "0-1", "template: 1\n")
        kernel.part(Files).put("/etc/pve/nodes/b/qemu-server/901.conf", "affinity: 0-1")
        happens(kernel, "100", "prepare")
        assert partition(kernel) == "root"


def test_a_vm_that_comes_from_another_host_has_the_cpus_that_it_says_there() -> None:
    with two_vms() as kernel:
        kernel.part(Files).put("/etc/pve/nodes/b/qemu-server/102.conf", "affinity: 2-3\n" + OURS)
        configured(kernel, PROXMOX.file("102"))
        assert "CPUs of VMs 2-3" in happens(kernel, "102", "prepare")[-1]


@pytest.mark.parametrize("affinity", ["", ","])
def test_no_affinity_is_an_error_that_shows_what_to_do(affinity: str) -> None:
    with two_vms() as kernel:
        defined(kernel, "100", affinity)
        before = kernel.snapshot()
        event = Event("100", "prepare", kernel, Proxmox(kernel))
        event.configure()
        with pytest.raises(
            IsolationError,
            match=r"^VM 100 does not say where its vCPUs run; add affinity \(qm set 100 --affinity 4-7\)$",
        ):
            event.carry_out()
        assert event.required
        assert kernel.snapshot() == before and not claims(kernel)


@pytest.mark.parametrize(
    ("affinity", "words"),
    [("4,x", "VM 100 has the affinity '4,x': expected a number"), ("4,9", "CPU 9 is not online")],
)
def test_an_affinity_that_no_claim_can_have_stops_the_vm(affinity: str, words: str) -> None:
    with two_vms() as kernel:
        defined(kernel, "100", affinity)
        with pytest.raises(IsolationError, match=words):
            happens(kernel, "100", "prepare")
        assert not claims(kernel)


def test_cpus_that_are_configured_come_before_the_affinity() -> None:
    with two_vms() as kernel:
        defined(kernel, "100", "")
        configured(kernel, PROXMOX.file("100"), isolate_vm_cpus="3")
        assert "CPUs of VMs 3, of the host 0-2,4-7" in happens(kernel, "100", "prepare")[-1]


def test_a_vm_that_does_not_exist_is_an_error() -> None:
    with two_vms() as kernel:
        configured(kernel, PROXMOX.default)
        with pytest.raises(IsolationError, match="there is no VM 102 on this host"):
            happens(kernel, "102", "prepare")


@pytest.mark.parametrize("everybody", [True, False])
@pytest.mark.parametrize("name", ["abc", "0100", "99", "../100"])
def test_what_is_no_id_is_refused_and_may_not_start_if_everybody_is_configured(name: str, everybody: bool) -> None:
    with two_vms() as kernel:
        if everybody:
            kernel.part(Files).put(PROXMOX.default, "{}")
        for operation, required in (("prepare", everybody), ("release", False)):
            event = Event(name, operation, kernel, Proxmox(kernel))
            with pytest.raises(IsolationError, match="is not the ID of a Proxmox VE virtual machine"):
                event.configure()
            assert event.required is required


def test_claims_of_libvirt_and_of_proxmox_do_not_touch_each_other() -> None:
    with two_vms() as kernel:
        defined(kernel, "102", "0")
        configured(kernel, LIBVIRT.file("win11"))
        before = kernel.snapshot()
        happens(kernel, "100", "prepare")
        happens_in_libvirt(kernel, "win11", "prepare")
        machines = f"{CGROUP}/machine.slice"
        assert {name: claim["maker"] for name, claim in claims(kernel).items()} == {
            "100": "proxmox",
            "win11": "libvirt",
        }
        assert (partition(kernel), partition(kernel, machines)) == ("root", "isolated")
        # One that is not configured concerns only those beside it.
        happens(kernel, "102", "prepare")
        assert (partition(kernel), partition(kernel, machines)) == ("member", "isolated")
        assert happens_in_libvirt(kernel, "other", "prepare") == ["the claim win11 continues without a partition"]
        # Neither releases what the other has.
        assert happens_in_libvirt(kernel, "100", "release") == happens(kernel, "101", "release") == []
        assert set(claims(kernel)) == {"100", "win11"}
        assert engine(kernel).revert(None, created_by="libvirt").notes["claims"] == ["win11"]
        assert set(claims(kernel)) == {"100"}
        happens(kernel, "100", "release")
        assert kernel.snapshot() == before


def test_a_claim_of_that_name_that_others_made_stays_theirs() -> None:
    with two_vms() as kernel:
        configured(kernel, LIBVIRT.file("100"))
        happens_in_libvirt(kernel, "100", "prepare")
        engine(kernel).apply("101", whole_job("3", "auto"))
        isolated = kernel.snapshot()
        for name, why in (("100", "and it is libvirt's"), ("101", "and proxmox did not make it")):
            with pytest.raises(IsolationError, match=f"there is a claim '{name}' already, {why}"):
                happens(kernel, name, "prepare")
            assert happens(kernel, name, "release") == []
        assert kernel.snapshot() == isolated and set(claims(kernel)) == {"100", "101"}


def test_a_claim_by_hand_for_the_slice_says_that_all_in_it_are_vms_with_cpus() -> None:
    with two_vms() as kernel:
        defined(kernel, "102", "0", "")
        engine(kernel).apply("host", [step("reserve_cpus", cpus="6-7", cgroup="/qemu.slice")])
        lines = happens(kernel, "100", "prepare")
        assert "nobody would notice" not in "".join(lines) and kernel.read(f"{SLICE}/cpuset.cpus") == "4-7"
        assert partition(kernel) != "member"
        assert happens(kernel, "102", "prepare") == [
            "/qemu.slice is in a partition that has CPUs 6-7: it can have no others"
        ]
