PYTHON ?= python3.11
PIP = .venv/bin/pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test check docs results bench oracles soak clean

## make demo     set up .venv and show what GRPO earns in a simulated shop
demo: .venv/installed
	.venv/bin/recoach demo

## make test     set up .venv and run the tests
test: .venv/tested
	.venv/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

## make check    lint, types, import layers
check: .venv/checked
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

## make docs     build the documentation into site/; warnings are errors
docs: .venv/documented
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict  # --quiet would hide warnings from --strict

## make results  write results/ and the tables of the documentation
results: .venv/installed
	.venv/bin/python -m tools.results.collect

## make bench    compare the speed with other libraries, each in its own environment (hours)
bench: .venv/installed
	.venv/bin/python benchmarks/run.py

## make oracles  compute the values of other libraries that the tests compare with
oracles:
	$(PYTHON) -m venv .venv-oracles
	.venv-oracles/bin/pip install --disable-pip-version-check --quiet --requirement tests/oracles/requirements.txt
	.venv-oracles/bin/python tests/oracles/compute.py

## make soak     kill commands hundreds of times, resume and compare (under 30 minutes)
soak: .venv/tested
	.venv/bin/python benchmarks/soak.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/tested: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[test]'
	touch $@ .venv/installed

.venv/documented: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[docs]'
	touch $@ .venv/installed

.venv/checked: .venv/tested
	$(PIP) --editable '.[lint]'
	touch $@

clean:
	rm -rf .venv .venv-oracles runs site
