# memnotify-cuse. `make` lists the targets.

DEVICE := /dev/mem_notify
MOUNT := /run/mem_notify
USER_MOUNT := $(CURDIR)/build/mem_notify
MEMNOTIFY := .venv/bin/memnotify
# Most tests wait: for a notification interval, or for a server.
TESTS_AT_ONCE := $(shell expr 3 '*' $$(nproc))

.DEFAULT_GOAL := help
.PHONY: help install run install-service uninstall-service test test-vm lint format bench detection matrix sensitivity cgroups clients fuzz attacks reliability clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '%-25s %s\n' "$$name" "$$text"; done

install: ## make .venv with .venv/bin/memnotify, and install the system packages it needs
	@packaging/setup.sh

run: install ## install, then serve /dev/mem_notify in the foreground (Ctrl-C stops it)
	@if [ "$$(id -u)" = 0 ]; then \
		exec $(MEMNOTIFY) serve --device $(DEVICE) --mount $(MOUNT); \
	elif command -v sudo >/dev/null 2>&1; then \
		echo "memnotify: $(DEVICE) needs root; using sudo"; \
		exec sudo $(CURDIR)/$(MEMNOTIFY) serve --device $(DEVICE) --mount $(MOUNT); \
	else \
		echo "memnotify: no root and no sudo: serving a device for this user alone, $(USER_MOUNT)/mem_notify"; \
		mkdir -p build; \
		exec $(MEMNOTIFY) serve --device '' --mount $(USER_MOUNT); \
	fi

install-service: ## install as a service of systemd, in /usr/local, and start it now and at every boot (root)
	@packaging/setup.sh packages
	@packaging/service.sh install

uninstall-service: ## stop the service, and remove all that install-service installed (root)
	@packaging/service.sh uninstall

test: ## install, then run the tests: pure tier, and mount tier where /dev/fuse is
	@packaging/setup.sh dev
	.venv/bin/python -m pytest -n $(TESTS_AT_ONCE) -m "not alone"
	.venv/bin/python -m pytest -m alone

test-vm: ## run the guest tier: CUSE and real shortages of memory in a virtual machine (qemu; about 25 minutes)
	@packaging/setup.sh guest
	.venv/bin/python -m tests.support.guest.vm

lint: ## style, formatting and types
	@packaging/setup.sh dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: ## format the code
	@packaging/setup.sh dev
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

bench: ## measure latency, round trip, rest and wake-up beside their peers (root; a few minutes)
	@packaging/setup.sh dev
	.venv/bin/python -m benchmarks

detection: ## measure who is told when memory runs out, and who survives (qemu; about two hours)
	@packaging/setup.sh report
	.venv/bin/python -m benchmarks.detection

matrix: ## measure every way to take memory, and every load to be silent about (qemu; about an hour and a half)
	@packaging/setup.sh guest
	.venv/bin/python -m benchmarks.matrix

sensitivity: ## play all recordings with each number of the rules halved and doubled, and without each rule (10 minutes)
	@packaging/setup.sh dev
	.venv/bin/python -m benchmarks.sensitivity --write

cgroups: ## measure how soon a cgroup's limit is told of, and what a thousand cgroups cost (root; ten minutes)
	@packaging/setup.sh dev
	.venv/bin/python -m benchmarks.cgroup_latency

clients: ## run 140 programs in many languages against the device; installs what they need (15 minutes)
	@packaging/setup.sh dev
	.venv/bin/python -m tests.clients

fuzz: ## five minutes of odd system calls, 1,000,000 mutated frames, 200,000 mutated kernel files (8 minutes)
	@packaging/setup.sh dev
	.venv/bin/python -m tests.fuzz

attacks: ## attack the server in every known way, and kill it a thousand times (root; an hour)
	@packaging/setup.sh dev
	@failed=0; \
	.venv/bin/python -m tests.attacks || failed=1; \
	.venv/bin/python -m tests.attacks.cpu || failed=1; \
	.venv/bin/python -m tests.attacks.kills --count 1000 || failed=1; \
	exit $$failed

reliability: ## kill the server a hundred times under a crowd of programs (root; ten minutes)
	@packaging/setup.sh dev
	.venv/bin/python -m tests.reliability

clean: ## remove .venv, build/ and caches
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
