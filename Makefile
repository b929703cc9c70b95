# Everything runs in .venv; constraints.txt pins every package. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
comma := ,

.PHONY: help setup demo test lint train bench app clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

# torch first: with it installed, other packages are content and pull no CUDA build of it.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing the pinned packages into .venv (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade -c constraints.txt pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --editable . --group dev
	@touch $@

setup: .venv/ready  ## create .venv with everything pinned

demo: .venv/ready  ## label the sample comments with the model that ships
	@mkdir -p demo
	@$(BIN)/moderation score data/samples --out demo/labelled.csv --show 30
	@echo "Next: $(BIN)/moderation score YOUR-EXPORT --out labelled.csv     (WordPress, Disqus, Coral, Reddit, CSV, a saved page ...)"

test: .venv/ready  ## run the whole test suite
	@.ci/system-packages
	MODERATION_REQUIRE_POSTGRES=1 $(BIN)/python -m pytest

lint: .venv/ready  ## check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

train: .venv/ready  ## train the default model anew (needs CORPORA=folder)
	$(BIN)/moderation train --corpora "$(CORPORA)" --out models/new

bench: .venv/ready  ## measure speed against others (CORPORA=folder, else our own test threads)
	$(BIN)/python benchmarks/speed.py $(if $(CORPORA),--corpora "$(CORPORA)",--rows data/threads/test.jsonl --size 1500) \
		--growth $(or $(GROWTH),1000$(comma)10000) $(BENCH) --out report/speed

app: .venv/ready  ## open the review desk
	$(BIN)/moderation review

clean:  ## remove .venv and what the targets made
	rm -rf .venv demo build dist *.egg-info
