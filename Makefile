# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
#
# Dependencies are installed once per content of constraints.txt, into a shared folder (RAGSTONE_VENVS), because PyTorch is large;
# .venv is a thin layer over it that holds this checkout.

SHELL := /bin/bash
PYTHON ?= python3
RAGSTONE_VENVS ?= $(HOME)/.cache/ragstone/venvs
KEY := $(shell { cat constraints.txt; $(PYTHON) --version; } | sha256sum | cut -c1-12)
DEPS := $(RAGSTONE_VENVS)/$(KEY)
RUN := .venv/bin/python
SITE := import site; print(site.getsitepackages()[0])
DEMO ?= demo
DOCS ?=
ASK ?=

.PHONY: demo test check bench docs engines worker console clean

demo: .venv/.ready
	@$(RUN) examples/demo.py --folder "$(DEMO)" --docs "$(DOCS)" --ask "$(ASK)"

# A file's tests stay in one process, since they share what is slow to start.
test: .venv/.ready
	$(RUN) -m pytest --numprocesses 2 --dist loadfile

check: .venv/.ready
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	PYTHONPATH=. .venv/bin/python -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

# Real nodes of OpenSearch and Elasticsearch on loopback, one after the other, with the tests that need one; skipped, with the reason, without
# Maven or Java.
engines: .venv/.ready
	@$(RUN) -m tests.engines
	@$(RUN) -m tests.elastic_node

# The Worker's packages, once per content of its package.json, into the cache. The tests that need them install them too.
worker: .venv/.ready
	@$(RUN) -c "from ragstone import npm; from ragstone.edge.cloudflare import SOURCE; print(npm.packages(SOURCE / 'package.json'))"

# The console's page, built from console/ into the package.
console: .venv/.ready
	@$(RUN) -m tests.built

# The docs site, from docs/ and docstrings.
docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

bench: .venv/.ready
	$(RUN) -m benchmarks

$(DEPS)/.ready:
	@echo "installing dependencies into $(DEPS) (once; PyTorch makes it about 5 GB and a few minutes)"
	rm -rf "$(DEPS)"
	$(PYTHON) -m venv "$(DEPS)"
	"$(DEPS)/bin/pip" install --quiet -c constraints.txt torch==2.13.0
	"$(DEPS)/bin/pip" install --quiet -c constraints.txt setuptools '.[dev]'
	"$(DEPS)/bin/pip" uninstall --quiet --yes ragstone
	rm -rf build
	touch $@

.venv/.ready: $(DEPS)/.ready pyproject.toml
	rm -rf .venv
	$(PYTHON) -m venv --without-pip .venv
	"$(DEPS)/bin/python" -c "$(SITE)" > "$$(.venv/bin/python -c "$(SITE)")/dependencies.pth"
	"$(DEPS)/bin/pip" --python .venv/bin/python install --quiet --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv build site *.egg-info .mypy_cache .ruff_cache .pytest_cache demo
