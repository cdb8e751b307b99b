# Every target prepares what it needs from a clean clone: a virtual environment in .venv, and in it the tools,
# the dependencies and the package. Stamp files in .venv/.stamps say what is already done.

PYTHON ?= python3
# Extra arguments: make test ARGS="tests/test_tasks.py -k retry"
ARGS ?=
# Arguments of the stress program
STRESS_ARGS ?=
# ON builds the extension with the marked steps at which a fault test can kill a process
TEST_HOOKS ?= OFF
JOBS ?= $(shell nproc)
# Of the soak, in seconds. (The shell has a SECONDS of its own, which is no answer.)
ifneq ($(origin SECONDS),command line)
SECONDS := 600
endif
SEED ?=
ONLY ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# pip runs in one environment must not overlap
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PACKAGE := $(STAMPS)/package-hooks-$(TEST_HOOKS)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# Most of what the large packages bring is never imported; Python compiles what is.
INSTALL := $(PIP) install --no-compile
CMAKE := $(shell command -v cmake || echo $(BIN)/cmake)

# Directories are listed too: their time changes when a file is removed. What an import or an editor leaves is not.
SOURCES := $(shell find core src/shoal -path core/tests -prune -o \
	-not -name __pycache__ -not -name '*.pyc' -not -name '.*' -print) \
	pyproject.toml CMakeLists.txt $(wildcard README.md LICENSE)

# Prints requirements listed in pyproject.toml, one a line: "build", "run" or the name of an extra.
REQUIREMENTS = $(BIN)/python -c 'import sys; \
	toml = __import__("tomllib" if sys.version_info >= (3, 11) else "pip._vendor.tomli", fromlist=["load"]); \
	data = toml.load(open("pyproject.toml", "rb")); \
	project = data["project"]; \
	lists = {"build": data["build-system"]["requires"], "run": project["dependencies"]}; \
	lists.update(project["optional-dependencies"]); \
	print(*lists[sys.argv[1]], sep="\n")'

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo 'Variables: PYTHON (interpreter of a new .venv), ARGS (for demo, test, lint, types, bench, scaling, profile),'
	@echo '           STRESS_ARGS, JOBS, TEST_HOOKS=ON (build the extension with the crash points)'

.PHONY: setup
setup: $(PACKAGE) $(STAMPS)/test $(STAMPS)/demo ## Install the package and what its tests and demo need into .venv

.PHONY: demo
demo: $(PACKAGE) $(STAMPS)/demo ## Run the demonstration
	@$(BIN)/python examples/demo.py $(ARGS)

.PHONY: test
test: $(PACKAGE) $(STAMPS)/test ## Run the tests
	@$(BIN)/python -m pytest -q $(ARGS)

.PHONY: lint
lint: $(STAMPS)/dev ## Check style and formatting
	$(BIN)/ruff check $(ARGS)
	$(BIN)/ruff format --check $(ARGS)

.PHONY: types
types: $(STAMPS)/dev $(STAMPS)/run ## Check the types
	$(BIN)/mypy --strict src/shoal $(ARGS)

.PHONY: bench
bench: $(PACKAGE) $(STAMPS)/bench ## Compare with Ray and the other peers (ten minutes)
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: scaling
scaling: $(PACKAGE) $(STAMPS)/bench ## Measure what a call costs as things grow
	@$(BIN)/python -m benchmarks.scaling $(ARGS)

# The release options, and debugging information to tell instructions apart by source file; valgrind counts them.
.PHONY: profile
profile: $(STAMPS)/tools $(STAMPS)/run ## Break down the cost of single calls
	@$(CMAKE) -S . -B build/profile -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DCMAKE_CXX_FLAGS_RELWITHDEBINFO='-O3 -DNDEBUG -g' -DPython_EXECUTABLE='$(CURDIR)/$(BIN)/python' \
		-Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)" >/dev/null
	@MAKEFLAGS=--no-print-directory $(CMAKE) --build build/profile --parallel $(JOBS) >/dev/null
	@rm -rf build/profile/package && mkdir -p build/profile/package
	@cp -r src/shoal build/profile/package/ && cp build/profile/_core.*.so build/profile/package/shoal/
	@PYTHONPATH='$(CURDIR)/build/profile/package' $(BIN)/python -m benchmarks.breakdown $(ARGS)

# The package with the crash points, beside the one in .venv.
.PHONY: crash-package
crash-package: $(STAMPS)/tools $(STAMPS)/run $(STAMPS)/test
	@$(CMAKE) -S . -B build/crash -DSHOAL_TEST_HOOKS=ON -DCMAKE_BUILD_TYPE=Release \
		-DPython_EXECUTABLE='$(CURDIR)/$(BIN)/python' -Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)" >/dev/null
	@MAKEFLAGS=--no-print-directory $(CMAKE) --build build/crash --parallel $(JOBS) >/dev/null
	@rm -rf build/crash/package && mkdir -p build/crash/package
	@cp -r src/shoal build/crash/package/ && cp build/crash/_core.*.so build/crash/package/shoal/

.PHONY: crashpoints
crashpoints: crash-package ## Kill each kind of process at each marked step (twenty minutes; ARGS=--resume goes on)
	@PYTHONPATH='$(CURDIR)/build/crash/package' $(BIN)/python -m tests.crashpoints $(ARGS)
	@PYTHONPATH='$(CURDIR)/build/crash/package' $(BIN)/python -m pytest -q tests/sync/test_crash_points.py \
		tests/sync/test_rollback.py tests/versioned/test_versioned_steps.py tests/ownership/test_ownership_steps.py \
		tests/memory/test_spill_faults.py tests/deaths/test_state.py tests/deaths/test_never_comes.py

.PHONY: soak
soak: $(PACKAGE) $(STAMPS)/test ## Everything busy while processes are killed at random: SECONDS=600 SEED= ONLY=
	@$(BIN)/python -m tests.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) $(ARGS)

.PHONY: ends
ends: $(PACKAGE) $(STAMPS)/test ## Kill a hundred drivers at random moments: who is left after a second?
	@$(BIN)/python -m tests.soak --ends 100 $(ARGS)

.PHONY: fuzz
fuzz: $(PACKAGE) $(STAMPS)/test ## Garbage for all that is read from others, and for the public API: SECONDS=1200 SEED=
	@$(BIN)/python -m tests.fuzz --seconds $(if $(filter command,$(firstword $(origin SECONDS))),$(SECONDS),1200) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: sanitize san-address san-undefined san-thread
sanitize: san-address san-undefined san-thread ## Run the C++ stress program under each sanitizer
	@echo 'sanitize: no findings (address, undefined, thread)'

# The thread sanitizer refuses to start on kernels that randomise more address bits than it expects, so it runs
# without randomisation where that is allowed (some containers forbid it).
san-address san-undefined san-thread: san-%: $(if $(filter $(BIN)/%,$(CMAKE)),$(STAMPS)/tools)
	@echo '== $* sanitizer'
	@$(CMAKE) -S . -B build/san-$* -DSHOAL_STRESS=ON -DSHOAL_TEST_HOOKS=ON -DSHOAL_SANITIZE=$* \
		-DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
	@MAKEFLAGS=--no-print-directory $(CMAKE) --build build/san-$* --parallel $(JOBS)
	@run=; if [ $* = thread ] && setarch -R true 2>/dev/null; then run='setarch -R'; fi; \
	UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 $$run build/san-$*/stress $(STRESS_ARGS)

.PHONY: clean
clean: ## Remove everything that was built, .venv included
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMPS)/venv:
	@echo 'setup: creating $(VENV)'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Shoal needs Python 3.10 or newer, not " + sys.version)'
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

# Build requirements go into the environment itself: with pip's build isolation each rebuild would fetch them again
# and compile from nothing. scikit-build-core knows whether this machine's cmake and ninja will do.
$(STAMPS)/tools: pyproject.toml | $(STAMPS)/venv
	@echo 'setup: installing build tools'
	@$(REQUIREMENTS) build > $@.txt
	@$(INSTALL) -r $@.txt
	@$(BIN)/python -c 'from scikit_build_core.build import get_requires_for_build_wheel as needed; \
		print(*needed(), sep="\n")' > $@.txt
	@$(INSTALL) -r $@.txt
	@touch $@

$(STAMPS)/run $(STAMPS)/test $(STAMPS)/demo $(STAMPS)/dev $(STAMPS)/bench: $(STAMPS)/%: pyproject.toml | $(STAMPS)/venv
	@echo 'setup: installing requirements ($*)'
	@$(REQUIREMENTS) $* > $@.txt
	@$(INSTALL) -r $@.txt
	@touch $@

# Not editable: an editable install hooks the import system, and import time is something users see. The build
# directory stays, so only what changed is compiled. The stamp is as old as the start of the build: a file edited
# meanwhile is newer than it and is built the next time.
$(PACKAGE): $(SOURCES) $(STAMPS)/tools $(STAMPS)/run
	@echo 'setup: building and installing shoal'
	@rm -f $(STAMPS)/package-hooks-*
	@touch $(STAMPS)/started
	@$(PIP) install --no-build-isolation --no-deps --force-reinstall . \
		--config-settings=build-dir='build/{wheel_tag}-hooks-$(TEST_HOOKS)' \
		--config-settings=cmake.define.SHOAL_TEST_HOOKS=$(TEST_HOOKS)
	@mv $(STAMPS)/started $@
