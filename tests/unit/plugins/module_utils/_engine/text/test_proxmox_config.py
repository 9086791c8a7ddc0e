# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a Proxmox VE virtual machine's configuration says of CPUs, and what of it is another's."""

from __future__ import annotations

import pytest
from ansible_collections.vfio.isolation.plugins.module_utils._engine.errors import IsolationError
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.domain import Domain
from ansible_collections.vfio.isolation.plugins.module_utils._engine.text.proxmox_config import (
    Config,
    domain_of,
    is_ours,
    parse,
)
from ansible_collections.vfio.isolation.tests.unit.plugins.module_utils._engine.hostile import changed_text, texts
from hypothesis import given

OURS = "local:snippets/vfio-isolation"
WHOLE = f"""#A comment%3A with affinity%3A 1
agent: 1
affinity: 4-5
cores: 2
hookscript: {OURS}
ide2: none,media=cdrom
scsi0: local-lvm:vm-100-disk-0,size=32G

[before]
affinity: 1
template: 1
hookscript: local:snippets/theirs
"""


@pytest.mark.parametrize(
    ("text", "affinity", "hookscript"),
    [
        ("", "", ""),
        (WHOLE, "4-5", OURS),
        ("affinity: 4-7\n", "4-7", ""),
        ("affinity:4-7", "4-7", ""),
        ("affinity:  4, 6-7,  \n", "4, 6-7,", ""),
        ("affinity: 4\r\nhookscript: a:snippets/b\r\n", "4", "a:snippets/b"),
        ("affinity: 4\naffinity: 5\n", "5", ""),
        ("# affinity: 4\n#hookscript: a:snippets/b\n", "", ""),
        ("#affinity: 4\naffinity: 5\n#affinity: 6\n", "5", ""),
        (" affinity: 4\nAffinity: 4\nvm-affinity: 4\naffinity2: 4\naffinity 4\naffinity:\n", "", ""),
        ("name: affinity: 4\n", "", ""),
        ("affinity: 4\n[PENDING]\naffinity: 5\nhookscript: a:snippets/b\n", "4", ""),
        ("affinity: 4\n\n[snap-1]\naffinity: 5\n", "4", ""),
        ("affinity: 4\n[special:cloudinit]\naffinity: 5\n", "4", ""),
        ("cores: 1\n[PENDING] \naffinity: 5\n\n[snap-1]\naffinity: 6\n", "", ""),
        ("[snap-1]\naffinity: 6\n", "", ""),
        ("args: [x]\naffinity: 5\n", "5", ""),
        ("affinity:    \ncores: 1\n", "", ""),
        ("name: a\x0baffinity: 4\u2028affinity: 5\n", "", ""),
    ],
)
def test_the_main_section_alone_is_the_vm_s(text: str, affinity: str, hookscript: str) -> None:
    assert parse(text) == Config(affinity, hookscript, False)


@pytest.mark.parametrize(
    ("value", "is_template"),
    [
        ("1", True),
        ("on", True),
        ("yes", True),
        ("true", True),
        ("YES", True),
        ("0", False),
        ("no", False),
        ("2", False),
    ],
)
def test_what_makes_a_template(value: str, is_template: bool) -> None:
    assert parse(f"affinity: 4\ntemplate: {value}\n") == Config("4", "", is_template)
    assert not parse(f"affinity: 4\n[before]\ntemplate: {value}\n").is_template


@pytest.mark.parametrize(
    ("hookscript", "ours"),
    [
        (OURS, True),
        ("nfs-1:snippets/vfio-isolation", True),
        ("local:snippets/vfio-isolation.pl", False),
        ("local:snippets/my-vfio-isolation", False),
        ("vfio-isolation", False),
        ("", False),
    ],
)
def test_our_hookscript_on_whichever_storage(hookscript: str, ours: bool) -> None:
    assert is_ours(hookscript) is ours


def domain(affinity: str) -> Domain:
    """VM 100 with this affinity."""
    return domain_of(Config(affinity, "", False), "100")


@pytest.mark.parametrize(
    ("affinity", "cpus"),
    [("4", {4}), ("4-6", {4, 5, 6}), ("0,5, 8-9 ", {0, 5, 8, 9}), ("4,5,", {4, 5}), (" 4-6 ,", {4, 5, 6})],
)
def test_all_threads_of_a_vm_have_its_affinity(affinity: str, cpus: set) -> None:
    found = domain(affinity)
    assert (found.vcpus, found.emulator, found.cgroup) == (cpus, cpus, "/qemu.slice")
    assert (found.name, found.title, found.edit) == ("100", "VM 100", "qm set 100 --affinity 4-7")


@pytest.mark.parametrize("affinity", ["", " ", ",", " , "])
def test_a_vm_without_an_affinity_has_no_cpus_of_its_own(affinity: str) -> None:
    found = domain(affinity)
    assert found.vcpus == found.emulator == frozenset()
    assert found.why_balanced() == "its QEMU process is not pinned (add affinity)"


def test_a_vm_on_several_cpus_needs_the_kernel_to_spread_its_threads() -> None:
    assert domain("4-5").why_balanced() == "its QEMU process is pinned to several CPUs, 4-5 (affinity)"
    assert domain("4,6").why_balanced() == "its QEMU process is pinned to several CPUs, 4,6 (affinity)"


def test_a_vm_on_one_cpu_has_nothing_to_spread() -> None:
    assert domain("4").why_balanced() == ""
    assert domain("4-5").without(frozenset({5})).why_balanced() == ""


@pytest.mark.parametrize(
    ("affinity", "words"),
    [
        ("abc", "VM 100 has the affinity 'abc': expected a number, a range such as 0-6, or"),
        ("4,,5", "VM 100 has the affinity '4,,5': expected a number"),
        (",4", "VM 100 has the affinity ',4': expected a number"),
        ("^4", "expected a number"),
        ("-1", "expected a number"),
        ("²", "expected a number"),
        ("4 5", "expected a number"),
        ("7-4", r"VM 100 has the affinity '7-4': the range ends \(4\) before it begins \(7\)"),
        ("0-99999", r"VM 100 has the affinity '0-99999': 99999 is more than any kernel has"),
    ],
)
def test_an_affinity_that_is_none_is_an_error_that_names_the_vm(affinity: str, words: str) -> None:
    with pytest.raises(IsolationError, match=words):
        domain(affinity)


@given(changed_text(WHOLE) | texts())
def test_any_text_is_read_or_its_affinity_refused_in_a_sentence(text: str) -> None:
    config = parse(text)
    try:
        found = domain_of(config, "100")
    except IsolationError as error:
        assert str(error).startswith("VM 100 has the affinity ")
    else:
        assert bool(found.vcpus) == bool(config.affinity.replace(",", "").strip())
