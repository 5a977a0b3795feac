# Everything below sets up what it needs: on a fresh Debian 12, as root, `make test` is enough.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# What runs the tests and the test bed. Nothing else of the machine is changed.
MACHINE := python3 python3-venv mmdebstrap systemd-container apt-utils iproute2 util-linux
PYTHON := .venv/bin/python
BED := tests/bed
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: setup machine bed check lint unit functional integration test test-all demo clean

setup: machine .venv/ready bed

machine:
	@dpkg-query -W -f='$${db:Status-Abbrev} $${Package}\n' $(MACHINE) 2>/dev/null | \
	    awk '$$1 == "ii" { n++ } END { exit n != $(words $(MACHINE)) }' || \
	    { apt-get -qq update && \
	      DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $(MACHINE); }

# By Debian's own Python, as in the hosts, whatever python3 comes first in PATH.
.venv/ready: setup.cfg | machine
	/usr/bin/python3 -m venv --clear .venv
	$(BED) build  # it fetches the wheels while it makes the hosts' root
	wheels=$$(/usr/bin/python3 -B -m tests.testbed wheels); \
	    $(PYTHON) -m pip install -qq --find-links "$$wheels" \
	    $$(/usr/bin/python3 -B -m tests.testbed requirements)
	touch $@

bed: machine
	@$(BED) build

check: lint unit

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/yamllint --strict .
	find salt pillar -name '*.sls' -exec .venv/bin/salt-lint {} +

# Without the plugins that load themselves: each of some thousand forks copies their pages.
unit: export PYTEST_DISABLE_PLUGIN_AUTOLOAD := 1
unit: .venv/ready
	$(PYTHON) -m pytest -q -p xdist -n 2 tests/unit

PICK := -m 'not slow'

# In a host, where the tests may install packages and change what they like.
functional: setup
	$(BED) --name functional pytest $(PICK) tests/functional

integration: setup
	$(PYTHON) -m pytest $(PICK) tests/integration

# Both wait more than they work, so they go side by side; each tells its story when it is done.
test: check setup
	$(MAKE) --jobs=2 --output-sync=target functional integration

# With what takes minutes and shows little that is new.
test-all: PICK :=
test-all: test

demo: setup
	$(PYTHON) tests/demo

clean:
	$(BED) down
	rm -rf .cache .venv
