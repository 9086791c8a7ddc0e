# Copyright: Contributors to the vfio.isolation project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# make isolate    builds and boots a virtual VFIO host, and isolates its CPUs 4-7
# make audit      shows what is claimed there and what has drifted
# make revert     reverts everything
# make stop       stops the virtual host
#
# make isolate INVENTORY=hosts.ini EXTRA='--check --diff'
#                 the same on your own machines, but only shows what would change; the CPUs are those of the inventory
#                 (isolate_vm_cpus), or with VM_CPUS=8-15,24-31 the same on each host
#
# make test       all tests: make lint, make unit, make host
# make soak       10,000 random lives of hosts on the model, or LIVES=N of them; SEED=N repeats those of a seed
# make soak-host  200 random operations, with kills, on a virtual host; SEED=N repeats them
# make matrix     the main job on each Debian from 11 to the next one, for docs/tested.md; SUITES=trixie for one of them
# make controllers  the main job with the oldest ansible-core, and with the newest that a Python of this machine runs
# make bench      the figures
# make clean      removes what was made in this directory

VM_CPUS ?=
INVENTORY ?=
EXTRA ?=
# Of random lives
LIVES ?= 10000
JOBS ?= $(shell nproc)
# Debian's Python, the one that the package python3-venv extends.
PYTHON ?= /usr/bin/python3
# Pythons of managed hosts that the unit tests also run with, if they are installed.
UNIT_PYTHONS ?= 3.8
# The Debian of the virtual hosts with cgroup v2 of make test; that with cgroup v1 is Debian 12, whose systemd is the
# last that boots it well.
SUITE ?= trixie
# For isolate, audit and revert: another ansible-core than that of tests/requirements.txt, and a Python that it runs on.
ANSIBLE_CORE ?=
CORE_PYTHON ?= $(PYTHON)
OLDEST_CORE = $(shell sed -n 's/^requires_ansible: ">=\(.*\)"$$/\1/p' meta/runtime.yml)
NEWEST_PYTHON ?= $(firstword $(foreach minor,15 14 13 12 11,$(shell \
    python3.$(minor) -c 'import sys; print(sys.executable)' 2>/dev/null)))
# Those of make matrix; all of them if empty.
SUITES ?=

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Ansible insists on UTF-8, and a fresh machine has no locale set.
export LC_ALL := C.UTF-8

ifneq ($(ANSIBLE_CORE),)
controller = .cache/controllers/$(ANSIBLE_CORE)
export PATH := $(CURDIR)/$(controller)/bin:$(PATH)
tools: $(controller)/complete
endif

say = @printf '\n== %s\n'
packages = @tests/setup/debian_packages.sh
virtual_host = $(PYTHON) tests/virtual_host/cli.py
plugins = ansible_collections.vfio.isolation.plugins
link = .cache/collections/ansible_collections/vfio/isolation
lives = tests/unit/plugins/module_utils/_engine/transaction/test_lives.py

.PHONY: isolate audit revert stop test lint unit host soak soak-host matrix controllers bench clean tools qemu virtual-host

# On hosts of one's own, their variables say which CPUs, and the ansible-playbook that is there will do.
ifneq ($(INVENTORY),)
inventory = $(INVENTORY)
vm_cpus = $(VM_CPUS)
isolate audit revert: $(if $(ANSIBLE_CORE),tools,$(if $(shell command -v ansible-playbook),$(link),tools))
else
inventory = $$($(virtual_host) inventory --name default)
vm_cpus = $(or $(VM_CPUS),4-7)
isolate audit revert: tools virtual-host
endif

isolate: options = $(if $(vm_cpus),-e isolate_vm_cpus='$(vm_cpus)')
isolate audit revert:
	$(say) 'Running playbooks/$@.yml'
	ansible-playbook -i "$(inventory)" playbooks/$@.yml $(options) $(EXTRA)

stop:
	$(virtual_host) stop --name default

test:
	$(MAKE) lint
	$(MAKE) unit
	$(MAKE) host

lint: tools
	$(packages) git shellcheck
	$(say) 'ruff'
	ruff check
	ruff format --check
	$(say) 'mypy --strict, as on the Python of the controller, and what reaches a host as on Python 3.8'
	mypy --python-version 3.11 -p $(plugins)
	mypy -p $(plugins).module_utils -p $(plugins).modules
	cd tests/virtual_host && mypy --config-file ../../pyproject.toml --python-version 3.11 .
	$(say) 'antsibull-changelog, antsibull-docs'
	tests/lint/in_copy.sh antsibull-changelog lint
	tests/lint/in_copy.sh antsibull-docs lint-collection-docs --plugin-docs --skip-rstcheck .
	$(say) 'ansible-lint, profile production'
	tests/lint/in_copy.sh ansible-lint
	$(say) 'ansible-test sanity (the first time two minutes: it sets up its own environments)'
	tests/lint/in_copy.sh ansible-test sanity

unit: tools
	$(packages) git
	@for version in $(UNIT_PYTHONS); do \
	    if tests/lint/in_copy.sh sh -c "command -v python$$version" >/dev/null; then \
	        printf '\n== Unit tests with Python %s, as on a managed host\n' $$version; \
	        tests/lint/in_copy.sh ansible-test units --venv --python $$version; \
	    else \
	        printf '\n== No unit tests with Python %s: this machine has no python%s\n' $$version $$version; \
	    fi; \
	done
	$(say) 'Unit tests with the Python of the controller'
	pytest --numprocesses 2 tests/unit

# Fresh hosts, which go away whatever happens: two with cgroup v2, one with v1, one with libvirt, one with
# isolcpus=, and one without systemd.
# An emulated host keeps one CPU of this machine busy, so two of them are tested at a time.
host: tools qemu .cache/bench/complete
	$(packages) gcc libc6-dev
	$(say) 'Tests on six virtual hosts: Molecule scenarios, then pytest'
	trap 'for name in test test-b test-v1 test-libvirt test-isolcpus test-openrc; do $(virtual_host) stop --name $$name; done' EXIT; \
	printf '%s\n' \
	    'test-libvirt --suite $(SUITE) --flavour libvirt' \
	    'test --suite $(SUITE)' \
	    'test-openrc --suite $(SUITE) --flavour openrc' \
	    'test-v1 --suite bookworm --cmdline systemd.unified_cgroup_hierarchy=0' \
	    'test-isolcpus --suite $(SUITE) --cmdline "isolcpus=4-7 nohz_full=4-7 rcu_nocbs=4-7"' \
	    'test-b --suite $(SUITE)' | \
	    xargs -L 1 -P 2 $(virtual_host) start --name; \
	first="$$($(virtual_host) inventory --name test)"; \
	second="$$($(virtual_host) inventory --name test-b)"; \
	export VFIO_V1_INVENTORY="$$($(virtual_host) inventory --name test-v1)"; \
	export VFIO_LIBVIRT_INVENTORY="$$($(virtual_host) inventory --name test-libvirt)"; \
	export VFIO_OPENRC_INVENTORY="$$($(virtual_host) inventory --name test-openrc)"; \
	export VFIO_ISOLCPUS_INVENTORY="$$($(virtual_host) inventory --name test-isolcpus)"; \
	export MOLECULE_COMMAND_BORDERS=false; \
	printf '%s\n' "$$first partition" "$$second slices" | \
	    xargs -L 1 -P 2 sh -c 'VFIO_INVENTORY=$$0 exec molecule test --scenario-name "$$1"'; \
	VFIO_INVENTORY="$$first $$second" pytest --numprocesses 2 --durations 12 tests/host; \
	cat .cache/parity.md

soak: tools
	$(say) 'Random lives of hosts on the model kernel, $(JOBS) at a time'
	seed=$${SEED:-$$RANDOM}; \
	for job in $$(seq $(JOBS)); do \
	    LIVES=$$(( $(LIVES) / $(JOBS) )) HYPOTHESIS_PROFILE=search pytest -p no:cacheprovider \
	        --hypothesis-seed=$$((seed + job)) -s $(lives) & \
	    pids="$${pids:-} $$!"; \
	done; \
	for pid in $$pids; do wait $$pid; done; \
	printf 'seed %s: %s lives without a failure\n' $$seed $(LIVES)

soak-host: tools qemu
	$(packages) gcc libc6-dev
	$(say) '200 random operations with kills on a virtual host'
	trap '$(virtual_host) stop --name soak' EXIT; \
	$(virtual_host) start --name soak; \
	export VFIO_INVENTORY="$$($(virtual_host) inventory --name soak)"; \
	SOAK=200 pytest -s tests/host/test_checks.py -k soak

matrix: tools qemu
	$(packages) gcc libc6-dev
	$(say) 'The main job on each Debian, one virtual host after the other'
	python tests/matrix/matrix.py $(SUITES)

controllers: tools virtual-host
	$(say) 'The main job with the oldest and the newest ansible-core'
	newest=$$($(NEWEST_PYTHON) -m pip index versions ansible-core | sed -n '1s/.*(\(.*\))/\1/p'); \
	for core in "$(OLDEST_CORE) $(PYTHON)" "$$newest $(NEWEST_PYTHON)"; do \
	    set -- $$core; \
	    for what in isolate audit isolate revert; do \
	        $(MAKE) --no-print-directory $$what ANSIBLE_CORE=$$1 CORE_PYTHON=$$2 2>&1 | tee .cache/controller.log; \
	        if grep -q 'DEPRECATION WARNING' .cache/controller.log; then exit 1; fi; \
	    done; \
	    printf '\nansible-core %s on %s: isolated, audited, isolated again, reverted\n' $$1 "$$($$2 -V)"; \
	done

bench: tools qemu .cache/bench/complete
	$(packages) gcc libc6-dev
	$(say) 'Measuring on two virtual hosts, one after the other'
	trap '$(virtual_host) stop --name bench; $(virtual_host) stop --name bench-v1' EXIT; \
	$(virtual_host) start --name bench; \
	VFIO_INVENTORY="$$($(virtual_host) inventory --name bench)" python tests/bench/bench.py; \
	$(virtual_host) stop --name bench; \
	$(virtual_host) start --suite bookworm --name bench-v1 --cmdline systemd.unified_cgroup_hierarchy=0; \
	VFIO_INVENTORY="$$($(virtual_host) inventory --name bench-v1)" python tests/bench/bench.py --tasks

clean:
	rm -rf .ansible .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .venv

# The controller's tools, and a link that shows this checkout as the collection.
tools: .venv/complete $(link)

.venv/complete: tests/requirements.txt
	$(packages) python3 python3-venv openssh-client
	$(say) 'Installing the pinned tools into .venv (a minute)'
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

.cache/controllers/$(ANSIBLE_CORE)/complete:
	$(say) 'Installing ansible-core $(ANSIBLE_CORE) with $(CORE_PYTHON)'
	$(CORE_PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check ansible-core==$(ANSIBLE_CORE)
	touch $@

$(link):
	mkdir -p $(@D)
	ln -sfn ../../../.. $@

# vfio-isolate, to compare with: its wheels, and what is in them.
.cache/bench/complete: tests/bench/requirements.txt .venv/complete
	$(say) 'Building vfio-isolate from its source package'
	rm -rf .cache/bench
	pip wheel --quiet --use-pep517 --wheel-dir .cache/bench -r tests/bench/requirements.txt
	for wheel in .cache/bench/*.whl; do python -m zipfile -e "$$wheel" .cache/bench/theirs; done
	touch $@

qemu:
	$(packages) $$(sed 's/#.*//' tests/virtual_host/packages.txt)

virtual-host: qemu
	$(virtual_host) start --name default
