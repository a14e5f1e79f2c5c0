# The two commands of the README, `make demo` and `make test`, set themselves up through `make install`.
SHELL := /bin/bash
# The lock is of versions tried together under Python 3.11.
PYTHON ?= $(shell for p in python3.11 python3; do \
  $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --no-input --quiet
# An editable install names this folder: a checkout that was copied elsewhere is installed anew.
STAMP := $(VENV)/installed-$(shell pwd | cksum | cut -d' ' -f1)
# The newest hosts of `mmtokmerge.apply`, in an environment of their own over the first one's torch.
HOSTS := .venv-hosts
HOSTS_STAMP := $(HOSTS)/installed-$(shell pwd | cksum | cut -d' ' -f1)
DOCS := .venv-docs
PYTEST_ARGS ?= -n 2 --dist worksteal

export OMP_NUM_THREADS ?= 1
# MMCV without compiled operators: an install in seconds rather than a quarter of an hour.
export MMCV_WITH_OPS := 0

.PHONY: help install check demo test test-hosts docs lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

install: $(STAMP)  ## a virtual environment in .venv with pinned, tried versions

$(STAMP): requirements/lock.txt pyproject.toml setup.py
	@test -n "$(PYTHON)" || { echo "make install needs Python 3.11, which its lock is for: none was \
	found on PATH; name one with make install PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make install \
	needs Python 3.11, which its lock is for, but $(PYTHON) is another" >&2; exit 1; }
	@echo "installing into $(VENV) with $$($(PYTHON) --version): about 6 GB, a few minutes"
	test -x $(PY) || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) --no-deps --requirement requirements/lock.txt
	$(PIP) --no-deps --editable .
	rm -f $(VENV)/installed-*
	touch $@

check: install  ## what was found, what works, and the fix for what does not
	$(PY) -m mmtokmerge check

demo: install  ## test, time and draw token merging on generated streets; TRAIN=1 trains first
	OMP_NUM_THREADS=$${DEMO_THREADS:-2} $(PY) -u tools/demo.py $(if $(TRAIN),--train)

lint: install  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: lint  ## lint, every test that this machine can run, then the documentation
	$(PY) -m pytest $(PYTEST_ARGS)
	$(MAKE) --no-print-directory test-hosts
	$(MAKE) --no-print-directory docs

test-hosts: $(HOSTS_STAMP)  ## the tests of `mmtokmerge.apply` with the newest version of each host
	$(HOSTS)/bin/python -m pytest $(PYTEST_ARGS) tests/adapters -k "not timm and not mmseg"

$(HOSTS_STAMP): $(STAMP) requirements/hosts.txt
	$(PYTHON) -m venv --clear --without-pip $(HOSTS)
	echo "import site; site.addsitedir('$(CURDIR)/$(VENV)/lib/python3.11/site-packages')" \
	  > $(HOSTS)/lib/python3.11/site-packages/base.pth
	$(PY) -m pip --python $(HOSTS)/bin/python install --disable-pip-version-check --no-input \
	  --quiet --no-deps --requirement requirements/hosts.txt
	touch $@

docs: $(DOCS)/installed  ## the documentation as a site, in site/; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict
	@echo "open site/index.html"

$(DOCS)/installed: $(STAMP) requirements/docs.txt
	$(PYTHON) -m venv --clear --without-pip $(DOCS)
	$(PY) -m pip --python $(DOCS)/bin/python install --disable-pip-version-check --no-input \
	  --quiet --requirement requirements/docs.txt
	touch $@

format: install  ## let ruff lay out the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## remove the virtual environment and what tests left
	rm -rf $(VENV) $(HOSTS) $(DOCS) site .pytest_cache .mypy_cache .ruff_cache *.egg-info
