# `make demo` and `make test` work as the first command on a bare clone: they need python3, a C++17
# compiler and make; cmake and ninja come from PyPI.
.DELETE_ON_ERROR:
.PHONY: setup demo test reliability lock sbom lint format wheel clean distclean emulated cuda gpu-check sanitize neon bench

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An environment variable reaches isolated build environments too; --constraint does not.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Twice quiet: errors only.
PIP := $(BIN)/python -m pip install -qq
KERNELS := $(shell find kernels -type f -not -path 'kernels/tests/*')

setup: $(VENV)/.ready

# LOCKED=1 takes the files of requirements.lock and no others (Linux x86-64, Python 3.11), as CI does.
# torch before the rest: with it in place nothing that follows can ask for another build of it.
# No build isolation: the build folder stays valid, so a changed kernel is all that is compiled.
$(VENV)/.ready: pyproject.toml constraints.txt $(if $(LOCKED),$(wildcard *.lock)) $(KERNELS)
	@echo "setting up $(VENV): a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifdef LOCKED
	env -u PIP_CONSTRAINT $(PIP) --require-hashes --no-deps --only-binary :all: -r requirements.lock
	env -u PIP_CONSTRAINT $(PIP) --require-hashes --no-deps --no-build-isolation -r requirements-source.lock
	$(PIP) --no-build-isolation --no-deps --editable .
else
	$(PIP) torch 'scikit-build-core>=0.10' 'nanobind>=2.4' cmake ninja
	$(PIP) --no-build-isolation --editable '.[dev]'
endif
	@touch $@

demo: setup
	$(BIN)/fit3d demo

test: lint emulated
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

# Kills, failing disks, hostile files, crashing scenes, leaks: everything docs/reliability.md claims,
# at full size; one table at the end, JSON in bench-out/. ONLY=kills runs those whose names begin so.
reliability: setup
	$(BIN)/python -m tests.reliability $(ONLY) $(RELIABILITY)

# The CUDA sources in a build folder of their own; $(2) says how.
define build_cuda
	$(BIN)/cmake -S kernels -B build/$(1) -G Ninja $(2) --log-level=WARNING \
	  -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	  -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir)
	$(BIN)/cmake --build build/$(1) --target _cuda -- --quiet
	@touch build/$(1)/.ready
endef

# Compiled for the CPU by the C++ compiler: the tests run every CUDA kernel without a GPU.
emulated: build/emulated/.ready
build/emulated/.ready: $(VENV)/.ready $(KERNELS)
	$(call build_cuda,emulated,-DFIT3D_EMULATE_CUDA=ON)

# Compiled by nvcc, with or without a GPU: takes a minute or two.
cuda: build/cuda/.ready
build/cuda/.ready: $(VENV)/.ready $(KERNELS)
	$(call build_cuda,cuda,-DFIT3D_CUDA=ON)

# On a bare machine with CUDA and torch, in minutes: build, tests, benchmarks, the table last.
# Without internet: make gpu-check WHEELS=folder (tests/gpu/check.sh says which wheels).
gpu-check:
	PYTHON=$(PYTHON) tests/gpu/check.sh $(WHEELS)

# All CPU benchmarks, the table last, JSON in bench-out/. SCENE is a lifted .f3d, by default the
# built-in room; with WORKSPACE (its tokens) Adam runs too. More: make bench BENCH="--rounds 5".
bench: setup
	$(BIN)/python -m benchmarks $(if $(SCENE),--scene $(SCENE)) \
	  $(if $(WORKSPACE),--workspace $(WORKSPACE)) $(BENCH)

# The CPU kernels over degenerate scenes under the sanitizers; kernels/tests/fuzz.cpp says what is
# checked. Minutes; the thread sanitizer sees fewer scenes, as races do not depend on them.
SCENES ?= 10000
SEED ?= 0
FUZZ = $(MAKE) -s -C kernels/tests BUILD=$(CURDIR)/build/sanitize
sanitize:
	@$(FUZZ) FLAVOUR=asan
	@$(FUZZ) FLAVOUR=tsan
	@build/sanitize/asan/fuzz check $(SCENES) $(SEED)
	@build/sanitize/tsan/fuzz check $$(($(SCENES) / 50 + 1)) $(SEED)

# AVX2, baseline and NEON (emulated) on the same scenes: the first and the last give the same bits.
neon:
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || \
	  { echo "make neon: needs a cross compiler and an emulator: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 3; }
	@$(FUZZ) FLAVOUR=plain
	@$(FUZZ) FLAVOUR=neon
	@cd build/sanitize && qemu-aarch64 neon/fuzz check 100 $(SEED) && \
	  plain/fuzz dump plain/fast.bin 300 $(SEED) fast && plain/fuzz dump plain/baseline.bin 300 $(SEED) baseline && \
	  qemu-aarch64 neon/fuzz dump neon/fast.bin 300 $(SEED) fast && \
	  plain/fuzz compare plain/fast.bin plain/baseline.bin && plain/fuzz same plain/fast.bin neon/fast.bin && \
	  rm plain/*.bin neon/*.bin

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# After a change of dependencies: what CI installs, with digests.
lock: setup
	$(BIN)/python .ci/lock.py

# What the environment holds, as CycloneDX, in dist/.
sbom: setup
	@test -x build/sbom/bin/cyclonedx-py || { $(PYTHON) -m venv build/sbom && \
	  env -u PIP_CONSTRAINT build/sbom/bin/python -m pip install -qq 'cyclonedx-bom>=7,<8'; }
	@mkdir -p dist
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --of JSON -o dist/fit3d.cdx.json $(BIN)/python

wheel: setup
	$(BIN)/python -m pip wheel -qq --no-deps --wheel-dir dist .

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache fit3d-demo bench-out
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
