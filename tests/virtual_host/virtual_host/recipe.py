# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in an image: with the files under guest/ and the ACPI table, all that decides how a host behaves."""

from __future__ import annotations

# Debian 11 to 13, and what becomes the next one.
SUITES = ("bullseye", "bookworm", "trixie", "forky")
DEFAULT_SUITE = "trixie"

_COMMON = """
    linux-image-amd64 initramfs-tools systemd udev openssh-server python3 iproute2 kmod procps util-linux irqbalance
""".split()
_WITH_SYSTEMD = [*_COMMON, "systemd-sysv", "systemd-container", "dbus"]

FLAVOURS: dict[str, list[str]] = {
    "light": _WITH_SYSTEMD,
    "libvirt": [*_WITH_SYSTEMD, "libvirt-daemon-system", "libvirt-clients", "qemu-system-x86"],
    # systemctl is there, but systemd is not process 1.
    "openrc": [*_COMMON, "sysvinit-core", "openrc", "orphan-sysvinit-scripts"],
}

ENABLED_UNITS = ["static-network.service"]
# The same for OpenRC: the scripts of its runlevel `default`.
ENABLED_SCRIPTS = ["static-network"]

# Each of them costs time at boot, or wakes up in the middle of a test; nothing here uses them.
MASKED_UNITS = """
    apt-daily-upgrade.timer apt-daily.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    getty-static.service getty@tty1.service ldconfig.service libvirt-guests.service logrotate.timer
    modprobe@drm.service proc-sys-fs-binfmt_misc.automount serial-getty@ttyS0.service sys-fs-fuse-connections.mount
    sys-kernel-config.mount systemd-ask-password-console.path systemd-ask-password-wall.path systemd-binfmt.service
    systemd-fsckd.socket systemd-hwdb-update.service systemd-initctl.socket systemd-journal-catalog-update.service
    systemd-journal-flush.service systemd-pstore.service systemd-random-seed.service systemd-repart.service
    systemd-sysusers.service systemd-tmpfiles-clean.timer systemd-update-done.service
    systemd-update-utmp-runlevel.service systemd-update-utmp.service
""".split()

# Documentation, drivers of absent hardware, and two costs of time under emulation: systemd's generators (half of each
# `systemctl daemon-reload`) and udev in the initrd (seconds to find one disk).
LEFT_OUT = """
    /usr/share/doc/* /usr/share/info/* /usr/share/locale/* /usr/share/man/*
    */lib/systemd/system-generators/*
    /usr/share/initramfs-tools/hooks/udev /usr/share/initramfs-tools/scripts/init-*/udev
    */lib/modules/*/kernel/drivers/gpu/* */lib/modules/*/kernel/drivers/infiniband/*
    */lib/modules/*/kernel/drivers/media/* */lib/modules/*/kernel/drivers/net/ethernet/*
    */lib/modules/*/kernel/drivers/net/wireless/* */lib/modules/*/kernel/sound/*
""".split()

DISK_SIZE = 4 * 2**30
