# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A claim stands for what was granted when it was made, whatever its expressions come to on the host of today."""

from __future__ import annotations

import errno
from typing import Any, Dict

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.model import Step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.topology import (
    CPU,
    NODE,
    POSSIBLE,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    numbers,
    os_error,
    text_of,
)

WIN11 = "/etc/libvirt/qemu/win11.xml"
PINS = "".join(f"<vcpupin vcpu='{cpu - 4}' cpuset='{cpu}'/>" for cpu in (4, 5, 6))
DOMAIN = f"<domain><name>win11</name><vcpu>3</vcpu><cputune>{PINS}</cputune></domain>"
# What names CPUs 4-6 on this host.
EXPRESSIONS = ("core:4-6", "vm:win11", "l3:largest", "node:1,^7", "4-6")
STRATEGIES = ("partition", "slices")
LIST = f"{CGROUP}/{{}}/cpuset.cpus"


def show(kernel: FakeKernel, online: str = "0-7") -> None:
    """The host's CPUs, of which these are online; CPUs 4-6 share the larger of two caches."""
    kernel.hotplug(numbers(online))
    for cpu in POSSIBLE:
        there = cpu in numbers(online)
        group = numbers("4-6" if cpu in (4, 5, 6) else "0-3,7") & numbers(online)
        files = {
            "topology/thread_siblings_list": str(cpu),
            "cache/index0/level": "3",
            "cache/index0/shared_cpu_list": text_of(group),
            "cache/index0/size": "96M" if cpu in (4, 5, 6) else "32M",
        }
        for name, text in files.items():
            path = f"{CPU}/cpu{cpu}/{name}"
            kernel.files.pop(path, None)
            if there:
                kernel.files[path] = text
    kernel.files[f"{NODE}/node1/cpulist"] = text_of(numbers("4-7") & numbers(online))


def forget(kernel: FakeKernel) -> None:
    """CPU 6 goes offline, the domain is undefined, both caches are said to be equal: no expression means 4-6 now."""
    show(kernel, "0-5,7")
    kernel.files.pop(WIN11, None)
    for path in list(kernel.files):
        if path.endswith("cache/index0/size"):
            kernel.files[path] = "32M"


def reserved(cpus: str, strategy: str, cgroup: str) -> Step:
    """A reservation for a cgroup."""
    return step("reserve_cpus", cpus=cpus, strategy=strategy, cgroup=cgroup)


def seen(kernel: FakeKernel) -> Dict[str, Any]:
    """All settings, without what only describes the host."""
    return {line: value for line, value in kernel.snapshot().items() if not line.startswith((CPU, NODE, WIN11))}


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("second", STRATEGIES)
@pytest.mark.parametrize("first", STRATEGIES)
def test_a_claim_keeps_its_cpus_when_another_one_comes(first: str, second: str, expression: str) -> None:
    with booted() as kernel:
        kernel.files[WIN11] = DOMAIN
        show(kernel)
        before = seen(kernel)
        engine(kernel).apply("one", [reserved(expression, first, "/one.slice")])
        forget(kernel)
        engine(kernel).apply("two", [reserved("7", second, "/two.slice")])
        assert engine(kernel).inspect()[1].changes == []
        if first == "partition":
            assert kernel.read(LIST.format("one.slice")) == "4-6"
        assert numbers(kernel.read(LIST.format("system.slice")) or "0-3") <= numbers("0-3")
        assert engine(kernel).inspect()[1].notes["vm_cpus"] == "4-7"
        engine(kernel).revert(["two"])
        show(kernel)
        engine(kernel).revert(["one"])
        assert seen(kernel) == before


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_claim_that_is_applied_again_keeps_what_it_cannot_be_evaluated_to(expression: str) -> None:
    job = [step("cpu_governor", cpus=expression, governor="performance"), reserved(expression, "slices", "/one.slice")]
    with booted() as kernel:
        kernel.files[WIN11] = DOMAIN
        show(kernel)
        engine(kernel).apply("one", job)
        forget(kernel)
        outcome = engine(kernel).apply("one", job)
        assert not outcome.changed and outcome.notes["vm_cpus"] == "4-6"


def test_a_claim_that_is_applied_again_follows_a_domain_that_is_pinned_anew() -> None:
    job = [step("cpu_governor", cpus="vm:win11", governor="performance"), reserved("vm:win11", "slices", "/one.slice")]
    with booted() as kernel:
        kernel.files[WIN11] = DOMAIN.replace("'6'", "'5'")
        show(kernel)
        before, governors = seen(kernel), dict(kernel.governors)
        engine(kernel).apply("one", job)
        kernel.files[WIN11] = DOMAIN.replace("'4'", "'6'").replace("'5'", "'7'")
        audited = engine(kernel).inspect()[1]
        assert audited.changes == [] and audited.notes["vm_cpus"] == "4-5"
        assert engine(kernel).apply("one", job, check=True).changed
        outcome = engine(kernel).apply("one", job)
        assert outcome.changed and outcome.notes["vm_cpus"] == "6-7"
        # CPUs 4-5 and 6-7 share a policy each.
        assert kernel.governors[2] == governors[2] != "performance" == kernel.governors[3]
        assert not engine(kernel).apply("one", job).changed
        engine(kernel).revert()
        assert seen(kernel) == before


def test_what_is_refused_goes_back_to_what_was_granted() -> None:
    with booted() as kernel:
        kernel.files[WIN11] = DOMAIN
        show(kernel)
        engine(kernel).apply("one", [reserved("vm:win11", "partition", "/one.slice")])
        forget(kernel)
        before = seen(kernel)
        other = [reserved("4-5", "partition", "/one.slice"), step("cpu_governor", cpus="0", governor="performance")]
        kernel.refuse = lambda what: os_error(errno.EINVAL) if "scaling_governor = performance" in what else None
        with pytest.raises(IsolationError, match="Everything is back as it was"):
            engine(kernel).apply("one", other)
        kernel.refuse = None
        assert seen(kernel) == before
        assert engine(kernel).inspect()[0].claims["one"].granted[0]["cpus"] == "4-6"
        assert engine(kernel).inspect()[1].changes == []


def test_interrupts_of_a_device_are_known_by_their_handlers_and_more_of_them_join() -> None:
    queues = [step("irq_affinity", cpus="4-7", names=["nvme0q*"])]

    def handlers(**numbers_: str) -> None:
        for number, handler in numbers_.items():
            kernel.files[f"/sys/kernel/irq/{number[1:]}/actions"] = handler

    with booted() as kernel:
        handlers(_1="nvme0q1")
        engine(kernel).apply("vm", queues)
        assert kernel.irqs[1] == numbers("0-3")
        kernel.irqs[1] = numbers("2")  # irqbalance moves it, among the host's CPUs
        kernel.irqs[9] = numbers("0-7")
        handlers(_9="nvme0q2")
        assert engine(kernel).apply("vm", queues).changed
        assert kernel.irqs[1] == numbers("2") and kernel.irqs[9] == numbers("0-3")
        handlers(_1="eth0", _9="eth1")  # the device is gone, and others have its numbers
        kernel.irqs[1] = kernel.irqs[9] = numbers("0-7")
        engine(kernel).apply("other", [step("cpu_governor", cpus="0", governor="performance")])
        assert kernel.irqs[1] == kernel.irqs[9] == numbers("0-7")
