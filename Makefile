# `make repro` is all a newcomer needs; `make` lists the rest. Setting up is part of every target and happens once.
PYTHON ?= python3.11
MODEL  ?=
export TEXT
SHELL  := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro demo report verdict prune weights plan export speak prompts rehearse sweep compare test lint bases bench bench-growth bench-voice bench-gate clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready .venv/has-sox .venv/has-flite  ## install what a run needs: .venv with the locked packages, sox and flite

repro: setup  ## bring everything that is out of date up to date
	@python -m stages.repro
	@echo "Listen: $(CURDIR)/reports/index.html"

demo: setup  ## one family from recordings to its page: make demo MODEL=cosyvoice3
	@[ -n "$(MODEL)" ] || { echo "make demo: say which family, like MODEL=cosyvoice3"; exit 1; }
	dvc repro report@$(MODEL)
	@echo "Listen: $(CURDIR)/reports/families/$(MODEL)/index.html"

plan: setup  ## how much memory training takes, before anything is loaded: make plan MODEL=cosyvoice3 [GPU=24]
	@[ -n "$(MODEL)" ] || { echo "make plan: say which family, like MODEL=cosyvoice3"; exit 1; }
	@python -m stages.train.plan --model $(MODEL) $(if $(GPU),--gpu $(GPU))

report: setup  ## build the listening pages, and what they need, and print where they are
	dvc repro index
	@echo "Listen: $(CURDIR)/reports/index.html"

verdict: setup  ## take in what somebody heard and saved from a listening page: make verdict FILE=verdicts-cosyvoice3-anna.json
	@[ -n "$(FILE)" ] || { echo "make verdict: say which file, like FILE=verdicts-cosyvoice3-anna.json"; exit 1; }
	@python -m stages.report --verdict "$(FILE)"

prune: setup  ## delete checkpoints that lost, once somebody has listened; without YES=1 only say which: make prune MODEL=fish_s2 [YES=1]
	@[ -n "$(MODEL)" ] || { echo "make prune: say which family, like MODEL=fish_s2"; exit 1; }
	@python -m stages.prune --model $(MODEL) $(if $(YES),--yes)

export: setup  ## the promoted checkpoint as a folder to deploy: make export MODEL=qwen3_tts [CHECKPOINT=epoch-04]
	@[ -n "$(MODEL)" ] || { echo "make export: say which family, like MODEL=qwen3_tts"; exit 1; }
	$(if $(CHECKPOINT),python -m stages.export --model $(MODEL) --checkpoint $(CHECKPOINT),dvc repro export@$(MODEL))

speak: setup  ## hear any text: make speak MODEL=qwen3_tts TEXT="Good morning." OUT=take.wav [CHECKPOINT=epoch-04] [SCALE=0.5]
	@[ -n "$(MODEL)" -a -n "$(OUT)" ] || { echo 'make speak: say which family, what and where to, like MODEL=qwen3_tts TEXT="Good morning." OUT=take.wav'; exit 1; }
	@python -m stages.gate.speak --model $(MODEL) --text "$$TEXT" --out "$(OUT)" $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(if $(SCALE),--scale $(SCALE))

prompts: setup  ## write the texts that a system from elsewhere has to read, reports/prompts.csv, and say where its audio goes
	dvc repro corpus
	@python -m stages.gate --prompts

rehearse: setup  ## the full path without released weights: make rehearse MODEL=qwen3_tts [SIZE=released]
	@[ -n "$(MODEL)" ] || { echo "make rehearse: say which family, like MODEL=qwen3_tts"; exit 1; }
	@python -m stages.rehearse --model $(MODEL) $(if $(SIZE),--size $(SIZE))

# The plan that `make sweep` runs when nothing else is asked for.
PLAN ?= experiments/cosyvoice3_rerun.yaml
sweep: setup  ## several runs and their comparison: make sweep [PLAN=experiments/FILE.yaml], or MODEL=qwen3_tts LR=1e-6,2e-6 SCALE=0.3,0.5; [JOBS=2] [ON=slurm]
	@python -m stages.sweep $(if $(MODEL),--model $(MODEL),--plan "$(PLAN)") $(if $(LR),--lr "$(LR)") $(if $(SCALE),--scale "$(SCALE)") \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(ON),--on $(ON))
	@python -m stages.compare

compare: setup  ## table of the runs: what each one changed and what came of it
	@python -m stages.compare

weights: .venv/ready  ## bring released weights in: make weights MODEL=qwen3_tts [SIZE=0.6B] [REVISION=commit], or FROM=/a/folder
	@[ -n "$(MODEL)" ] || { echo "make weights: say which family, like MODEL=qwen3_tts"; exit 1; }
	@python -m stages.weights.bring --model "$(MODEL)" $(if $(FROM),--from "$(FROM)") $(if $(SIZE),--size "$(SIZE)") \
		$(if $(REVISION),--revision "$(REVISION)")

test: setup lint .venv/has-chromium .venv/has-chromedriver  ## lint and run every test
	pytest -n 2

lint: .venv/ready  ## ruff (errors and style) and mypy (types)
	ruff check .
	mypy

bases: setup  ## train a tiny base from synthetic voices: make bases MODEL=cosyvoice3
	@[ -n "$(MODEL)" ] || { echo "make bases: say which family, like MODEL=cosyvoice3"; exit 1; }
	dvc repro corpus
	python -m stages.bases --model $(MODEL)

bench: setup  ## measure batching and packing, tokens/s and memory of each stage, and the parts of released codecs at their true sizes
	python -m stages.bench
	python -m stages.bench.released
	python -m stages.bench.preparation

bench-growth: setup  ## measure how time and memory grow from 0.4 to 10 hours of recordings: make bench-growth [MODEL=qwen3_tts]
	@python -m stages.bench.growth $(if $(MODEL),--model $(MODEL))

bench-voice: setup  ## measure how well codecs, bases and checkpoints speak: word error, similarity, DNSMOS
	python -m stages.bench.voice

bench-gate: setup  ## measure which planted defects the gate catches: make bench-gate [TEXTS=40], or its verdicts with other seeds: [RETEST=5]
	@python -m stages.bench.gate $(if $(TEXTS),--texts $(TEXTS)) $(if $(RETEST),--retest $(RETEST))

clean:  ## remove scratch and tool caches; results stay, and so does .venv
	rm -rf .scratch .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find models stages tests -name __pycache__ -prune -exec rm -rf {} +

.venv/ready: requirements.lock
	@$(PYTHON) -c 'import sys, venv, ensurepip; assert sys.version_info[:2] == (3, 11)' 2>/dev/null || { \
		echo "$(PYTHON): not a Python 3.11 with venv; install it (Debian 12: apt-get install python3.11-venv)" \
		"or name yours: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check --no-deps -r requirements.lock
	@touch $@

# A program from the operating system: .venv/has-sox installs the Debian package sox where the program is missing.
package_chromedriver := chromium-driver
.venv/has-%: | .venv/ready
	@command -v $* >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -q && apt-get install -qy --no-install-recommends $(or $(package_$*),$*); } || { \
		echo "$*: not found; install it (Debian: sudo apt-get install $(or $(package_$*),$*))"; exit 1; }
	@touch $@
