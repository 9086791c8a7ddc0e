# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual VFIO host: Debian 11 to 13, or its next release, under QEMU on this machine, with or without KVM.

8 CPUs and 2 NUMA nodes, a real cpufreq subsystem (four policies of two CPUs), managed IRQs (the virtio disk's queues)
and ordinary ones (AHCI, network), irqbalance, and in the flavour `libvirt` also libvirtd with QEMU. Everything that
is changed inside is gone when it stops. It listens on loopback only.

From a shell (`packages.txt` names the Debian packages that must be there):

    python3 tests/virtual_host/cli.py start --name demo       # builds the image first if needed; prints the inventory
    ansible-playbook -i "$(python3 tests/virtual_host/cli.py inventory --name demo)" playbooks/isolate.yml
    python3 tests/virtual_host/cli.py ssh --name demo -- lscpu
    python3 tests/virtual_host/cli.py stop --name demo

From Python, with `tests/virtual_host` on `sys.path`:

    from virtual_host import VirtualHost

    host = VirtualHost("demo")
    host.start(flavour="libvirt")
    subprocess.run([*host.ssh_command(), "virsh list"], check=True)
    host.stop()

Images are kept in `${XDG_CACHE_HOME:-~/.cache}/vfio-isolation/images/`, one directory for each recipe; what a running
host needs (inventory, ssh key, console log, pid file) in `${XDG_RUNTIME_DIR:-/tmp}/vfio-isolation-UID/NAME/`.

The files, each resting on those after it: `host` (one named host: start, find, stop), `machine` (QEMU's command
line), `process` (ending a process surely), `image` (building and caching), `recipe` (what is in an image), `sources`
(where Debian comes from), `lock`, `console` and `errors` (waiting, words for people).
"""

from __future__ import annotations

from .errors import VirtualHostError
from .host import VirtualHost, virtual_hosts
from .image import Image, build
from .recipe import FLAVOURS, SUITES

__all__ = ["FLAVOURS", "SUITES", "Image", "VirtualHost", "VirtualHostError", "build", "virtual_hosts"]
