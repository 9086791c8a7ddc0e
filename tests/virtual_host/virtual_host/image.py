# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Builds the disk image from Debian's packages, once for each recipe."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import recipe
from .console import not_installed, run, say
from .errors import VirtualHostError
from .lock import lock
from .sources import debian_sources

_TREE = Path(__file__).resolve().parent.parent
_GUEST = _TREE / "guest"
_ACPI_SOURCE = _TREE / "cpufreq.asl"
_CPIO = b"070701"
_PROGRAMS = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Image:
    """The files of one built image."""

    directory: Path

    @property
    def disk(self) -> Path:
        """The root file system: ext4, no partitions."""
        return self.directory / "disk.img"

    @property
    def kernel(self) -> Path:
        """The kernel, unpacked (ELF)."""
        return self.directory / "vmlinux"

    @property
    def initrd(self) -> Path:
        """The initial RAM disk (cpio), unpacked as far as it can be."""
        return self.directory / "initrd.img"

    @property
    def acpi_table(self) -> Path:
        """The table that brings cpufreq, compiled."""
        return self.directory / "cpufreq.aml"

    @property
    def ssh_key(self) -> Path:
        """The private key that root's account takes; the public one is beside it."""
        return self.directory / "id_ed25519"


def build(flavour: str, suite: str) -> Image:
    """Find the image of `flavour` and the Debian `suite` in the cache or build it, which takes minutes."""
    for what, name, known in (("flavour", flavour, recipe.FLAVOURS), ("suite", suite, recipe.SUITES)):
        if name not in known:
            message = f"there is no {what} {name!r}, only {', '.join(known)}."
            raise VirtualHostError(message)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vfio-isolation" / "images"
    cache.mkdir(parents=True, exist_ok=True)
    name = f"{suite}-{flavour}"
    image = Image(cache / f"{name}-{_fingerprint(name)}")
    with (cache / f"{image.directory.name}.lock").open("w") as lock_file:
        lock(lock_file.fileno(), holder=f"another build of the image {name}")
        if not image.directory.exists():
            with tempfile.TemporaryDirectory(prefix=f"{name}-building-", dir=cache) as work:
                _build(name, suite, recipe.FLAVOURS[flavour], Path(work)).directory.rename(image.directory)
    return image


def _fingerprint(name: str) -> str:
    """Hash all that decides what is in the image, the builder's code included."""
    guest = (path for path in _GUEST.rglob("*") if path.is_file())
    digest = hashlib.sha256(name.encode())
    for path in sorted([Path(__file__).resolve(), _TREE / "virtual_host" / "recipe.py", _ACPI_SOURCE, *guest]):
        digest.update(f"\0{path.relative_to(_TREE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _build(name: str, suite: str, packages: list[str], work: Path) -> Image:
    """Build an image in the directory `work`, which is thrown away when this fails."""
    started = time.monotonic()
    image = Image(work / "image")
    image.directory.mkdir()
    say(f"building the image {name}; it is kept in {work.parent}")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vfio-host", "-f", str(image.ssh_key)])
    run(["iasl", "-vs", "-p", str(image.acpi_table.with_suffix("")), str(_ACPI_SOURCE)])
    _write_overlay(work / "overlay.tar", image.ssh_key.with_suffix(".pub").read_bytes())
    (work / "sources.list").write_text("\n".join(debian_sources(suite)) + "\n", encoding="utf-8")
    say(f"installing Debian: {len(packages)} packages and what they depend on (a minute or two)")
    run(
        [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            '--aptopt=Acquire::Languages "none"',
            '--aptopt=Acquire::Check-Valid-Until "false"',  # a mirror may be behind
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.LEFT_OUT),
            f"--essential-hook=tar-in '{work}/overlay.tar' /",
            # A test installs this package once more.
            '--customize-hook=mkdir "$1/var/cache/vfio-host" && cd "$1/var/cache/vfio-host" '
            '&& APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q download systemd',
            f"--customize-hook=download /vmlinuz '{work}/vmlinuz'",
            f"--customize-hook=download /initrd.img '{work}/initrd'",
            suite,
            f"{work}/root.tar",
            f"{work}/sources.list",
        ],
    )
    say("writing the disk image")
    image.kernel.write_bytes(_unpacked_kernel((work / "vmlinuz").read_bytes()))
    initrd = (work / "initrd").read_bytes()
    # Since Debian 13 it begins with an archive that is not compressed; one that is needs a second of each boot.
    image.initrd.write_bytes(initrd if initrd.startswith(_CPIO) else _unpacked(initrd))
    with image.disk.open("wb") as disk:
        disk.truncate(recipe.DISK_SIZE)
    (work / "root").mkdir()
    make_disk = (
        f"tar -C '{work}/root' -xf '{work}/root.tar' && "
        f"mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=0 -d '{work}/root' '{image.disk}'"
    )
    run([*([] if os.geteuid() == 0 else ["fakeroot"]), "sh", "-c", make_disk])
    size = image.disk.stat().st_blocks * 512 / 2**20
    say(f"built the image {name} in {time.monotonic() - started:.0f} s; its disk takes {size:.0f} MiB")
    return image


def _unpacked_kernel(bz_image: bytes) -> bytes:
    """Take the ELF kernel out of its self-extracting file: that would need four seconds of each emulated boot.

    The kernel's Documentation/arch/x86/boot.rst has the header: setup_sects is at 0x1F1, payload_offset and
    payload_length are at 0x248.
    """
    setup_sectors = bz_image[0x1F1]
    offset, length = struct.unpack_from("<II", bz_image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return _unpacked(bz_image[start : start + length - 4])  # without the size that follows, see scripts/Makefile.lib


def _unpacked(packed: bytes) -> bytes:
    """Decompress what Debian compresses with gzip, xz or zstd."""
    program = next((name for magic, name in _PROGRAMS.items() if packed.startswith(magic)), None)
    if program is None:
        message = f"{packed[:4].hex()} does not begin anything that is compressed with gzip, xz or zstd."
        raise VirtualHostError(message)
    try:
        return subprocess.run([program, "-dc"], input=packed, stdout=subprocess.PIPE, check=True).stdout
    except FileNotFoundError as error:
        raise not_installed(program) from error
    except subprocess.CalledProcessError as error:
        message = f"{program} failed (exit status {error.returncode}); what it said is above."
        raise VirtualHostError(message) from error


def _write_overlay(path: Path, public_key: bytes) -> None:
    """Pack the files of guest/, the links of the units and the ssh key, all as root's."""
    with tarfile.open(path, "w") as tar:

        def add(name: str, content: bytes, mode: int = 0o644) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))

        def link(name: str, target: str) -> None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)

        for file in sorted(path for path in _GUEST.rglob("*") if path.is_file()):
            add(str(file.relative_to(_GUEST)), file.read_bytes(), 0o755 if os.access(file, os.X_OK) else 0o644)
        for unit in recipe.MASKED_UNITS:
            link(f"etc/systemd/system/{unit}", "/dev/null")
        for unit in recipe.ENABLED_UNITS:
            link(f"etc/systemd/system/multi-user.target.wants/{unit}", f"../{unit}")
        for script in recipe.ENABLED_SCRIPTS:
            link(f"etc/runlevels/default/{script}", f"/etc/init.d/{script}")
        add("root/.ssh/authorized_keys", public_key)
