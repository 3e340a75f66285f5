# Each target does its own set-up in .venv: a machine needs Python 3.10 or later, pip and make.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet

.PHONY: help demo test check docs tox newer bench soak suite package mutants schedules sanitize clean

help:
	@echo "make demo    three libraries with threads of their own send into one hub; on asyncio, then trio"
	@echo "make test    the tests, on asyncio, uvloop and trio"
	@echo "make check   lint, types, docs"
	@echo "make docs    build the documentation into docs/_build/html"
	@echo "make tox     the tests on every CPython that is installed"
	@echo "make newer   the same on CPythons newer than this machine's Debian, which it fetches (root)"
	@echo "make bench   how fast it is, against everything else (20 minutes); BENCHARGS=--only-targets: 5"
	@echo "make soak    everything at once, a minute; SOAKARGS='--seconds 1800': half an hour"
	@echo "make suite   anyio's own tests for what a hub and its portal do as well"
	@echo "make package build what would be published, and install it where nothing else is"
	@echo "make mutants break the library, guard by guard, and see the tests fail (10 minutes);"
	@echo "             MUTANTARGS=--one-of-each: one for each promise"
	@echo "make schedules  every schedule of an asker, an answerer and one that closes, one preemption"
	@echo "make sanitize  the tests of the extension module, on one that reports wrong use of memory (6 minutes)"
	@echo "make clean   remove what these have made"

demo: $(VENV)/ready-demo
	$(RUN) examples/demo

test: $(VENV)/ready-test
	$(RUN) -m pytest

check: $(VENV)/ready-dev docs
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(VENV)/bin/lint-imports --no-cache
	$(RUN) -m mypy
	$(RUN) -m pyright --pythonpath $(RUN)
	$(RUN) -m pyright --pythonpath $(RUN) --pythonversion 3.15
	@# --verifytypes asks the "python" that it finds first where the package is
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" pyright --verifytypes dss_anyio --ignoreexternal
	@# "make test" has no type checkers and skips these
	$(RUN) -m pytest --quiet tests/test_typing.py

docs: $(VENV)/ready-docs
	$(RUN) -m sphinx -q -n -W --keep-going -b html docs docs/_build/html

tox: $(VENV)/ready-dev
	@# pyenv hides the interpreters it has behind shims that refuse to run;
	@# /opt is where tests/build_free_threaded.sh puts the one without the GIL
	@if command -v pyenv >/dev/null; then \
		for version in $$(pyenv versions --bare | grep -E '^3\.1[0-9]'); do \
			PATH="$$(pyenv prefix $$version)/bin:$$PATH"; \
		done; \
	fi; PATH="$$PATH:/opt/python3.13t/bin" $(RUN) -m tox run-parallel --parallel 2 --parallel-no-spinner $(TOXARGS)

newer:
	tests/newer_pythons.sh tox -e 3.14,3.15 $(TOXARGS)

bench: $(VENV)/ready-bench
	$(RUN) -m benchmarks $(BENCHARGS)

soak: $(VENV)/ready-test
	$(RUN) tests/soak.py $(SOAKARGS)

suite: $(VENV)/ready-suite
	$(RUN) tests/suite_of_anyio.py $(SUITEARGS)

package: $(VENV)/ready-package
	$(RUN) tests/package.py

schedules: $(VENV)/ready-test
	$(RUN) tests/test_schedules.py 1 --match question

mutants: $(VENV)/ready-test
	$(RUN) tests/mutants.py $(MUTANTARGS)

sanitize: $(VENV)/ready-test
	$(RUN) tests/sanitize.py $(SANITIZEARGS)

clean:
	rm -rf $(VENV) $(VENV)-maker .tox docs/_build dist .hypothesis .mypy_cache .ruff_cache .pytest_cache

# A Python without ensurepip (Debian splits it off) cannot make a venv; virtualenv can.
$(VENV)/ready:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else \
		"dss_anyio needs Python 3.10 or later; this is " + sys.version.split()[0] + \
		". Name another one: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
		rm -rf $(VENV) && \
		$(PYTHON) -m pip install --quiet --target $(VENV)-maker virtualenv && \
		PYTHONPATH=$(VENV)-maker $(PYTHON) -m virtualenv --quiet $(VENV); }
	@$(PIP) install --upgrade 'pip>=25.1'  # the first that installs dependency groups
	@touch $@

# The extension module lies in src, and is built anew when its sources have changed.
NATIVE := hatch_build.py $(wildcard src/dss_anyio/_native/*.[ch] src/dss_anyio/_native/include/*.h)

$(VENV)/ready-%: $(VENV)/ready pyproject.toml $(NATIVE)
	$(PIP) install --editable . --group $*
	@touch $@
