# make build | demo | test | test-transformers4 | audit | lint | bench | clean. Each installs into .venv
# what it needs, once.
# make gpu-report builds, tests and measures on a GPU with the Python that is there.
# The environment sees the machine's own packages: a torch >= 2.11 that is already there is used.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
TRANSFORMERS4 ?= transformers==4.57.*
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.stamp-
# Python compiles what it imports; pip would compile all of torch and transformers.
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile
NATIVE := setup.py pyproject.toml CMakeLists.txt $(shell find csrc -type f)
CPP = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: build demo test test-transformers4 audit lint bench gpu-report clean
build: $(STAMP)package $(STAMP)native

demo: $(STAMP)demo $(STAMP)native
	@$(BIN)/zoprune demo $(ARGS)

# Two processes of one thread each: processes that compete for the same threads take twice as long.
test: $(STAMP)test $(STAMP)native
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

# The models once more, with the newest transformers of the major version before.
test-transformers4: $(STAMP)transformers4 $(STAMP)native
	@OMP_NUM_THREADS=1 PYTHONPATH=.venv/transformers4 $(BIN)/python -m pytest -n 2 -rs tests/hf $(ARGS)

bench: $(STAMP)bench $(STAMP)native
	@$(if $(ARGS),,$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=median,iqr)
	@$(BIN)/python -m benchmarks.cpu $(ARGS)
	@$(if $(ARGS),,$(BIN)/python -m benchmarks.family)
	@$(if $(ARGS),,$(BIN)/python -m benchmarks.e2e)

audit: $(STAMP)test $(STAMP)native
	@$(BIN)/python -m audit $(ARGS)

# With the machine's own Python, torch and pytest: it installs nothing and needs no network.
gpu-report:
	@PYTHONPATH=.:python $(PYTHON) -m benchmarks.gpu $(ARGS)

lint: $(STAMP)lint
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/clang-format --dry-run -Werror $(CPP)
	@$(BIN)/mypy

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

$(STAMP)native: $(STAMP)torch $(NATIVE)
	@echo "building the native library"
	@mkdir -p build
	@$(BIN)/python setup.py build_ext --inplace >build/log 2>&1 || { cat build/log; exit 1; }
	@touch $@

$(STAMP)transformers4: $(STAMP)test
	@echo "installing $(TRANSFORMERS4)"
	@$(PIP) --upgrade --target .venv/transformers4 "$(TRANSFORMERS4)"
	@touch $@

# The packages come while the native library is built, which ZOPRUNE_PURE_PYTHON leaves out here.
$(STAMP)package $(STAMP)demo $(STAMP)test $(STAMP)bench $(STAMP)lint: $(STAMP)%: $(STAMP)torch pyproject.toml
	@echo "installing what 'make $*' needs"
	@$(MAKE) -s --no-print-directory $(STAMP)native & native=$$!; ZOPRUNE_PURE_PYTHON=1 \
	  $(PIP) --no-build-isolation -e ".$(if $(filter-out package,$*),[$*])"; \
	  installed=$$?; wait $$native && exit $$installed
	@touch $@
