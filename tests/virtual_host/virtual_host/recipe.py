# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in an image: with the files under guest/ and the ACPI table, all that decides how a host behaves."""

from __future__ import annotations

# Debian 11 to 13, and what becomes the next one.
SUITES = ("bullseye", "bookworm", "trixie", "forky")
DEFAULT_SUITE = "trixie"

_COMMON = """
    linux-image-amd64 initramfs-tools systemd-sysv systemd-container udev dbus openssh-server python3 iproute2 kmod
    procps util-linux irqbalance
""".split()

FLAVOURS: dict[str, list[str]] = {
    "light": _COMMON,
    "libvirt": [*_COMMON, "libvirt-daemon-system", "libvirt-clients", "qemu-system-x86"],
}

ENABLED_UNITS = ["static-network.service"]

# Each of them costs time at boot, or wakes up in the middle of a test; nothing here uses them.
MASKED_UNITS = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    getty@tty1.service serial-getty@ttyS0.service getty-static.service libvirt-guests.service logrotate.timer
    modprobe@drm.service proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-config.mount
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-binfmt.service systemd-fsckd.socket
    systemd-initctl.socket systemd-journal-flush.service systemd-pstore.service systemd-random-seed.service
    systemd-repart.service systemd-sysusers.service systemd-tmpfiles-clean.timer
    systemd-update-utmp.service systemd-update-utmp-runlevel.service
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
