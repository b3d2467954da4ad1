# Everything below works on a fresh machine: the first target that needs the environment makes it.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
PYTEST := $(RUN) -m pytest
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup sweep sweep-slurm train train-quick train-show-config train-sweep dashboard doctor \
	cluster-up cluster-down test test-fast proofs lint types format docs lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set up

setup: $(READY) ## make the environment in .venv from requirements.lock

# Rebuilt when the lock or the project's metadata change. --no-deps: the lock is complete.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# The wheel has trialfleet alone; here the commands of pipelines/ can be typed in any folder, too.
	@$(RUN) -c 'import os, sysconfig; open(sysconfig.get_path("purelib") + "/trialfleet_project.pth", "w").write(os.getcwd() + "\n")'
	@touch $@

# ---- the main job

sweep: $(READY) ## run the default study: 8 trials of a small speech recogniser on real speech
	$(RUN) -m pipelines.sweep -m hydra/sweeper=optuna $(ARGS)

sweep-slurm: $(READY) ## the same study as Slurm jobs (make cluster-up gives a cluster to try it on)
	SLURM_CONF=$${SLURM_CONF:-$$($(RUN) -m jobs.slurm_cluster env | sed -n 's/^export SLURM_CONF=//p')} \
	$(RUN) -m pipelines.sweep -m hydra/sweeper=optuna hydra/launcher=submitit_slurm $(ARGS)

train: $(READY) ## one training with the defaults
	$(RUN) -m pipelines.train $(ARGS)

train-quick: $(READY) ## one training of a few steps
	$(RUN) -m pipelines.train +experiment=quick_test $(ARGS)

train-show-config: $(READY) ## the composed config
	$(RUN) -m pipelines.train --cfg job $(ARGS)

train-sweep: $(READY) ## a small grid
	$(RUN) -m pipelines.train -m +experiment=quick_test optimizer.learning_rate=1e-3,3e-3 $(ARGS)

dashboard: $(READY) ## MLflow's pages on the results
	$(RUN) -m pipelines.dashboard $(ARGS)

doctor: $(READY) ## whether this machine and its cluster are ready for studies
	$(RUN) -m pipelines.doctor $(ARGS)

# ---- a Slurm cluster on this machine

cluster-up: $(READY) ## start a real Slurm of several virtual nodes (Debian; installs its packages as root)
	$(RUN) -m jobs.slurm_cluster up $(ARGS)

cluster-down: $(READY) ## stop it and leave nothing behind
	$(RUN) -m jobs.slurm_cluster down $(ARGS)

# ---- work on the project

# loadgroup hands tests out one by one, the long ones first. Three workers for two cores: the tests on a real
# Slurm, and those of studies, wait more than they compute. On a machine that others use, too, take two.
WORKERS ?= 3
test: $(READY) ## all tests, those on a real Slurm included
	$(PYTEST) -n $(WORKERS) --dist loadgroup $(ARGS)

test-fast: $(READY) ## the everyday part
	$(PYTEST) -n $(WORKERS) --dist loadgroup -m "not slow and not cluster" $(ARGS)

proofs: $(READY) ## what the tests try by samples, case by case; takes long
	$(PYTEST) -n $(WORKERS) --dist loadgroup $(ARGS) benchmarks/proofs

lint: $(READY) ## ruff
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(READY) ## let ruff put the code in order
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

types: $(READY) ## mypy
	$(RUN) -m mypy

docs: $(READY) ## the documentation's site, in docs/_build/html; a warning is an error
	$(RUN) -m sphinx --builder html --fail-on-warning --keep-going --fresh-env --quiet docs docs/_build/html

lock: ## make requirements.lock anew (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
		--python-version 3.11 --extra train --extra dev pyproject.toml --output-file requirements.lock

clean: ## remove the environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build docs/_build docs/reference *.egg-info src/*.egg-info
