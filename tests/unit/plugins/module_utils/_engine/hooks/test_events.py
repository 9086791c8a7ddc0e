# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What libvirt's events do to a host, on the model kernel."""

from __future__ import annotations

import contextlib
import io
import json
import os
from typing import Any, Dict, Iterator, List, Optional

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError, TimeLimit
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.events import Event
from ansible_collections.vfio.isolation.plugins.module_utils._engine.hooks.libvirt import Libvirt
from ansible_collections.vfio.isolation.plugins.module_utils._engine.paths import JOURNAL, LIBVIRT
from ansible_collections.vfio.isolation.plugins.module_utils._engine.transaction.engine import Engine
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_jobs import engine, step, whole_job
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.cgroups import Cgroups
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.kernel import (
    FakeKernel,
    booted,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.fake_kernel.values import (
    CGROUP,
    Baseline,
)


def xml(name: str, pins: str, emulator: str = "0") -> bytes:
    """A domain with a vCPU on each of these CPUs."""
    tune = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>" for vcpu, cpu in enumerate(pins.split(",")))
    pin = f"<emulatorpin cpuset='{emulator}'/>" if emulator else ""
    return f"<domain><name>{name}</name><cputune>{tune}{pin}</cputune></domain>".encode()


def configured(kernel: FakeKernel, path: str, **given: Any) -> None:
    """A configuration file."""
    os.makedirs(os.path.dirname(kernel.root + path), exist_ok=True)
    with open(kernel.root + path, "w", encoding="utf-8") as stream:
        json.dump({"isolate_compact_memory": False, "isolate_emulator": "reserve", **given}, stream)


def happens(kernel: FakeKernel, name: str, operation: str, given: bytes = b"") -> List[str]:
    """What an event logs."""
    event = Event(name, operation, kernel, Libvirt(kernel, io.BytesIO(given)))
    event.configure()
    return event.carry_out()


def claims(kernel: FakeKernel) -> Dict[str, Any]:
    """The claims of the journal."""
    try:
        with open(kernel.root + JOURNAL, encoding="utf-8") as stream:
            return dict(json.load(stream)["claims"])
    except FileNotFoundError:
        return {}


@contextlib.contextmanager
def two_domains() -> Iterator[FakeKernel]:
    """A host where the domains one and two are configured."""
    with booted(Baseline(machine_slice=True)) as kernel:
        configured(kernel, LIBVIRT.file("one"))
        configured(kernel, LIBVIRT.file("two"))
        yield kernel


def partition(kernel: FakeKernel) -> str:
    """The kind of partition that the VMs are in."""
    return str(kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus.partition"))


def ring(kernel: FakeKernel, door: str, number: int, error: Exception) -> None:
    """Have this raised at the write or the read number `number` from now on, once."""
    left = [number]

    def count(_what: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error

    def read(path: str) -> Optional[str]:
        count(path)
        return FakeKernel.read(kernel, path)

    if door == "write":
        kernel.watch = count
    else:
        kernel.read = read  # type: ignore[method-assign] - a host that fails while it is read


def test_domains_come_and_go() -> None:
    with two_domains() as kernel:
        before = kernel.snapshot()
        lines = happens(kernel, "one", "prepare", xml("one", "4,5"))
        assert "strategy partition, CPUs of VMs 0,4-5, of the host 1-3,6-7" in lines[-1]
        assert claims(kernel)["one"]["maker"] == "libvirt"
        happens(kernel, "two", "prepare", xml("two", "6,7"))
        assert kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus") == "0,4-7"
        assert happens(kernel, "one", "release")[0].endswith("settings restored")
        assert set(claims(kernel)) == {"two"}
        happens(kernel, "two", "release")
        assert kernel.snapshot() == before and not claims(kernel)


def test_a_release_without_a_claim_says_nothing() -> None:
    with two_domains() as kernel:
        assert happens(kernel, "one", "release") == []
        happens(kernel, "one", "prepare", xml("one", "4,5"))
        assert happens(kernel, "two", "release") == [] and set(claims(kernel)) == {"one"}


def test_a_domain_that_is_not_configured_is_left_alone() -> None:
    with two_domains() as kernel:
        before = kernel.snapshot()
        for operation in ("prepare", "started", "release"):
            assert happens(kernel, "other", operation, xml("other", "4,5")) == []
        assert kernel.snapshot() == before and not claims(kernel)


@pytest.mark.parametrize("operation", ["prepare", "started"])
def test_claims_do_without_a_partition_when_another_domain_comes(operation: str) -> None:
    with two_domains() as kernel:
        before = kernel.snapshot()
        happens(kernel, "one", "prepare", xml("one", "4,5"))
        assert partition(kernel) == "isolated"
        lines = happens(kernel, "other", operation, xml("other", "1"))
        assert lines == ["the claim one continues without a partition"]
        assert partition(kernel) == "member" and set(claims(kernel)) == {"one"}
        assert kernel.read(f"{CGROUP}/system.slice/cpuset.cpus") == "1-3,6-7"
        assert happens(kernel, "other", operation, xml("other", "1")) == []
        happens(kernel, "one", "release")
        assert kernel.snapshot() == before


def test_a_partition_that_was_asked_for_stays_when_another_domain_comes() -> None:
    with two_domains() as kernel:
        configured(kernel, LIBVIRT.file("one"), isolate_strategy="partition")
        happens(kernel, "one", "prepare", xml("one", "4,5"))
        lines = happens(kernel, "other", "prepare", xml("other", "1"))
        assert lines == ["/machine.slice is in a partition that has CPUs 0,4-5: it can have no others"]
        assert partition(kernel) == "isolated"


def test_no_partition_around_what_runs_there_already() -> None:
    with two_domains() as kernel:
        kernel.part(Cgroups).make("/machine.slice/libpod.scope")
        kernel.add_thread(500, "/machine.slice/libpod.scope", "0-7")
        lines = happens(kernel, "one", "prepare", xml("one", "4,5"))
        assert "strategy slices, because no CPUs are reserved for what runs in /machine.slice/libpod.scope" in lines
        assert partition(kernel) == "member"


def test_somebody_else_s_claim_says_that_the_cgroup_is_the_vms() -> None:
    with two_domains() as kernel:
        kernel.part(Cgroups).make("/machine.slice/vm.scope")
        kernel.add_thread(500, "/machine.slice/vm.scope", "0-7")
        engine(kernel).apply("host", whole_job("6-7", "auto"))
        happens(kernel, "one", "prepare", xml("one", "4,5"))
        assert partition(kernel) == "isolated"
        assert "it can have no others" in happens(kernel, "other", "prepare", xml("other", "1"))[0]
        assert partition(kernel) == "isolated"


def test_a_claim_by_hand_for_a_domain_that_is_undefined_keeps_no_other_from_starting() -> None:
    definition = "/etc/libvirt/qemu/win11.xml"
    with two_domains() as kernel:
        kernel.files[definition] = xml("win11", "6,7").decode()
        engine(kernel).apply("by hand", [step("reserve_cpus", cpus="vm:win11", strategy="partition")])
        del kernel.files[definition]
        before = kernel.snapshot()
        happens(kernel, "one", "prepare", xml("one", "4,5"))
        assert kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus") == "0,4-7"
        happens(kernel, "one", "release")
        assert kernel.snapshot() == before


def test_a_claim_of_that_name_that_others_made_stays_theirs() -> None:
    with two_domains() as kernel:
        engine(kernel).apply("one", whole_job("6-7", "auto"))
        isolated = kernel.snapshot()
        with pytest.raises(IsolationError, match="there is a claim 'one' already, and libvirt did not make it"):
            happens(kernel, "one", "prepare", xml("one", "4,5"))
        assert happens(kernel, "one", "release") == []
        assert kernel.snapshot() == isolated
        happens(kernel, "two", "prepare", xml("two", "4,5"))
        with pytest.raises(IsolationError, match="there is a claim 'two' already, and it is libvirt's"):
            engine(kernel).apply("two", whole_job("6-7", "auto"))
        assert engine(kernel).revert(None, created_by="libvirt").notes["claims"] == ["two"]
        assert kernel.snapshot() == isolated
        assert engine(kernel).revert().notes["claims"] == ["one"]


@pytest.mark.parametrize(
    ("path", "given", "required", "timeout"),
    [
        (LIBVIRT.file("one"), {}, True, 60),
        (LIBVIRT.file("one"), {"required": False, "timeout": 5}, False, 5),
        (LIBVIRT.default, {"timeout": 7}, True, 7),
        (LIBVIRT.file("two"), {}, False, 60),
    ],
)
def test_what_is_configured(path: str, given: Dict[str, Any], required: bool, timeout: int) -> None:
    with booted() as kernel:
        configured(kernel, path, **given)
        for operation, may_stop_it, limit in (
            ("prepare", required, timeout),
            ("started", False, timeout),
            ("release", False, 600),
        ):
            event = Event("one", operation, kernel, Libvirt(kernel, io.BytesIO()))
            event.configure()
            assert (event.required, event.timeout) == (may_stop_it, limit)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"isolate_vm": "x"}', '{"timeout": "1"}', '{"timeout": 0}', '{"timeout": 3601}', "[" * 100000]
)
def test_a_bad_configuration_stops_the_domain(text: str) -> None:
    with two_domains() as kernel:
        with open(kernel.root + LIBVIRT.file("one"), "w", encoding="utf-8") as stream:
            stream.write(text)
        event = Event("one", "prepare", kernel, Libvirt(kernel, io.BytesIO()))
        with pytest.raises(IsolationError, match=r"domains/one\.json"):
            event.configure()
        assert event.required


def test_a_configuration_that_others_may_write_is_not_read() -> None:
    with two_domains() as kernel:
        os.chmod(kernel.root + LIBVIRT.file("one"), 0o666)
        with pytest.raises(IsolationError, match=r"one\.json: users other than root may write it"):
            Event("one", "prepare", kernel, Libvirt(kernel, io.BytesIO())).configure()
        os.chmod(kernel.root + LIBVIRT.file("one"), 0o644)
        os.chmod(os.path.dirname(kernel.root + LIBVIRT.file("one")), 0o757)
        with pytest.raises(IsolationError, match="users other than root may write it or its directory"):
            Event("one", "prepare", kernel, Libvirt(kernel, io.BytesIO())).configure()


def test_xml_of_another_domain_is_refused() -> None:
    with two_domains() as kernel:
        before = kernel.snapshot()
        with pytest.raises(IsolationError, match="the XML on standard input is that of the domain 'two'"):
            happens(kernel, "one", "prepare", xml("two", "4,5"))
        assert kernel.snapshot() == before


def test_a_claim_is_given_back_whatever_is_configured_by_then() -> None:
    with two_domains() as kernel:
        before = kernel.snapshot()
        happens(kernel, "one", "prepare", xml("one", "4,5"))
        os.chmod(kernel.root + LIBVIRT.file("one"), 0o666)
        happens(kernel, "one", "release")
        assert kernel.snapshot() == before and not claims(kernel)


def test_what_others_gave_up_they_get_back_where_a_domain_cannot_start() -> None:
    with two_domains() as kernel:
        happens(kernel, "one", "prepare", xml("one", "4,5"))
        isolated = kernel.snapshot()
        kernel.part(Cgroups).make("/machine.slice/libpod.scope")
        kernel.add_thread(500, "/machine.slice/libpod.scope", "0-7")
        with pytest.raises(IsolationError, match="CPU 9 is not online"):
            happens(kernel, "two", "prepare", xml("two", "6,9"))
        assert partition(kernel) == "isolated" and set(claims(kernel)) == {"one"}
        assert (
            kernel.snapshot()[f"{CGROUP}/machine.slice/cpuset.cpus"] == isolated[f"{CGROUP}/machine.slice/cpuset.cpus"]
        )


def test_a_domain_that_starts_without_isolation_is_left_alone() -> None:
    with two_domains() as kernel:
        happens(kernel, "one", "prepare", xml("one", "4,5"))
        configured(kernel, LIBVIRT.file("two"), required=False)
        lines = happens(kernel, "two", "prepare", xml("two", "6,9"))
        assert "it starts without isolation: " in lines[0] and "the claim one continues without a partition" in lines[1]
        assert partition(kernel) == "member" and set(claims(kernel)) == {"one"}


def test_what_is_configured_may_change_while_an_event_waits() -> None:
    with two_domains() as kernel:
        event = Event("one", "prepare", kernel, Libvirt(kernel, io.BytesIO(xml("one", "4,5"))))
        event.configure()
        os.unlink(kernel.root + LIBVIRT.file("one"))
        assert event.carry_out() == [] and not claims(kernel)


def reconfigured(kernel: FakeKernel, to: Any) -> None:
    """The domain one is configured anew: required or not, or its file is gone, spoilt or anybody's."""
    path = LIBVIRT.file("one")
    if isinstance(to, bool):
        configured(kernel, path, required=to)
    elif to == "gone":
        os.unlink(kernel.root + path)
    elif to == "spoilt":
        with open(kernel.root + path, "w", encoding="utf-8") as stream:
            stream.write("{")
    else:
        os.chmod(kernel.root + path, 0o666)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("second", "required"),
    [(True, True), (False, False), ("gone", False), ("spoilt", True), ("anybody's", True)],
)
def test_whether_a_domain_may_start_is_said_by_the_second_reading(first: bool, second: Any, required: bool) -> None:
    with two_domains() as kernel:
        configured(kernel, LIBVIRT.file("one"), required=first, timeout=5)
        event = Event("one", "prepare", kernel, Libvirt(kernel, io.BytesIO(xml("one", "4,9"))))
        event.configure()
        assert event.required is first
        reconfigured(kernel, second)
        if required:
            with pytest.raises(IsolationError, match=r"CPU 9 is not online|one\.json"):
                event.carry_out()
        else:
            event.carry_out()
        assert event.required is required and not claims(kernel)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("second", "required"), [(True, True), (False, False)])
def test_without_a_file_of_its_own_the_default_says_it(first: bool, second: bool, required: bool) -> None:
    with two_domains() as kernel:
        configured(kernel, LIBVIRT.file("one"), required=first, timeout=5)
        configured(kernel, LIBVIRT.default, required=second)
        event = Event("one", "prepare", kernel, Libvirt(kernel, io.BytesIO()))
        event.configure()
        assert (event.required, event.timeout) == (first, 5)
        os.unlink(kernel.root + LIBVIRT.file("one"))
        event.configure()
        assert (event.required, event.timeout) == (required, 60)


def test_of_a_file_that_is_gone_no_time_limit_is_left() -> None:
    with two_domains() as kernel:
        configured(kernel, LIBVIRT.file("one"), timeout=5)
        event = Event("one", "prepare", kernel, Libvirt(kernel, io.BytesIO()))
        event.configure()
        os.unlink(kernel.root + LIBVIRT.file("one"))
        event.configure()
        assert (event.required, event.timeout) == (False, 60)


def test_a_nested_partition_of_libvirt_s_is_isolated_by_slices() -> None:
    with two_domains() as kernel:
        before = kernel.snapshot()
        nested = xml("one", "4,5").replace(
            b"<cputune>", b"<resource><partition>/machine/foo</partition></resource><cputune>"
        )
        assert "strategy slices" in happens(kernel, "one", "prepare", nested)[-1]
        assert kernel.read(f"{CGROUP}/machine.slice/cpuset.cpus") == ""
        assert kernel.read(f"{CGROUP}/system.slice/cpuset.cpus") == "1-3,6-7"
        happens(kernel, "one", "release")
        assert kernel.snapshot() == before


@pytest.mark.parametrize("strategy", ["auto", "slices"])
def test_without_systemd_machined_the_claim_is_for_libvirt_s_own_cgroup(strategy: str) -> None:
    with two_domains() as kernel:
        del kernel.files["/usr/share/dbus-1/system-services/org.freedesktop.machine1.service"]
        configured(kernel, LIBVIRT.file("one"), isolate_strategy=strategy)
        kernel.part(Cgroups).make("/machine")
        before = kernel.snapshot()
        happens(kernel, "one", "prepare", xml("one", "4,5"))
        (reserve,) = (each for each in claims(kernel)["one"]["steps"] if each["name"] == "reserve_cpus")
        assert reserve["arguments"]["cgroup"] == "/machine"
        kernel.part(Cgroups).make("/machine/qemu-1-one.libvirt-qemu")
        kernel.add_thread(500, "/machine/qemu-1-one.libvirt-qemu", "4")
        assert kernel.threads[500].cpus == {4}
        for host in ("/system.slice", "/user.slice"):
            assert not kernel.effective(host) & {0, 4, 5}
        if strategy == "auto":
            assert kernel.read(f"{CGROUP}/machine/cpuset.cpus.partition") == "isolated"
            assert partition(kernel) == "member"
        # A domain that is not configured runs beside it, in the same cgroup.
        lines = happens(kernel, "other", "prepare", xml("other", "1"))
        assert lines == ["the claim one continues without a partition"] * (strategy == "auto")
        kernel.part(Cgroups).remove("/machine/qemu-1-one.libvirt-qemu")
        happens(kernel, "one", "release")
        assert kernel.snapshot() == before and not claims(kernel)


@pytest.mark.parametrize("number", range(1, 12))
def test_a_time_limit_in_the_middle_of_the_writes_gives_everything_back(number: int) -> None:
    with two_domains() as kernel:
        before = kernel.snapshot()
        event = Event("one", "prepare", kernel, Libvirt(kernel, io.BytesIO(xml("one", "4,5"))))
        event.configure()
        left = [number]

        def ring(_what: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise TimeLimit("too late")

        kernel._wrote = ring
        with pytest.raises((IsolationError, TimeLimit), match="too late"):
            event.carry_out()
        kernel._wrote = None
        assert kernel.snapshot() == before and not claims(kernel)


@pytest.mark.parametrize("error", [TimeLimit("too late"), KeyError("too late")], ids=repr)
def test_what_fails_behind_the_last_write_gives_everything_back(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the domain's own claim and of those that gave up their partition for it."""
    with two_domains() as kernel:
        happens(kernel, "one", "prepare", xml("one", "4"))
        kernel.part(Cgroups).make("/machine.slice/libpod.scope")
        kernel.add_thread(500, "/machine.slice/libpod.scope", "0-7")
        before = {name: claim["steps"] for name, claim in claims(kernel).items()}
        apply = Engine.apply

        def apply_and_fail(engine_: Engine, name: str, *given: Any, **more: Any) -> Any:
            outcome = apply(engine_, name, *given, **more)
            if name == "two":
                raise error
            return outcome

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "apply", apply_and_fail)
            with pytest.raises(type(error), match="too late"):
                happens(kernel, "two", "prepare", xml("two", "6"))
        assert {name: claim["steps"] for name, claim in claims(kernel).items()} == before
        assert partition(kernel) == "isolated"


@pytest.mark.parametrize("error", [TimeLimit("too late"), OSError(5, "too late"), RuntimeError("too late")], ids=repr)
@pytest.mark.parametrize(("door", "stride"), [("write", 2), ("read", 23)])
def test_whatever_fails_the_claims_of_others_have_their_partition_back(
    error: Exception, door: str, stride: int
) -> None:
    count = 0
    while True:
        count += stride
        with two_domains() as kernel:
            configured(kernel, LIBVIRT.file("three"))
            idle, left = kernel.snapshot(), "1-3,5-6"
            happens(kernel, "one", "prepare", xml("one", "4"))
            happens(kernel, "three", "prepare", xml("three", "7"))
            kernel.part(Cgroups).make("/machine.slice/libpod.scope")
            kernel.add_thread(500, "/machine.slice/libpod.scope", "0-7")
            before, steps = kernel.snapshot(), {name: claim["steps"] for name, claim in claims(kernel).items()}
            ring(kernel, door, count, error)
            sentence = ""
            try:
                happens(kernel, "two", "prepare", xml("two", "6"))
            except Exception as raised:
                sentence = str(raised)
            ring(kernel, door, 0, error)
            if not sentence:
                assert count > 30 and partition(kernel) == "member" and set(claims(kernel)) == {"one", "two", "three"}
                return
            assert "too late" in sentence
            now = kernel.snapshot()
            # The kernel empties no list of a cgroup with tasks: such a one has all that the partition leaves.
            kept = [line for line in now if line.endswith("/cpuset.cpus") and (before[line], now[line]) == ("", left)]
            assert {**now, **dict.fromkeys(kept, "")} == before, f"{door} {count}: {sentence}"
            assert partition(kernel) == "isolated"
            assert {name: claim["steps"] for name, claim in claims(kernel).items()} == steps, (
                f"{door} {count}: {sentence}"
            )
            del kernel.threads[500]
            kernel.part(Cgroups).remove("/machine.slice/libpod.scope")
            for name in steps:
                happens(kernel, name, "release")
            assert kernel.snapshot() == idle, f"{door} {count}"
