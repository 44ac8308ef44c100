# Boltzmann. `make` alone prints what can be made. Every target can be run twice.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
SHELL := /bin/bash
JOBS ?= 2
CARGO := cargo
# Binaries find libtorch from here, wherever else the user's own cargo builds.
export CARGO_TARGET_DIR := $(CURDIR)/target
# The demo and the tests share one build, with --all-targets, so that the tests' own features do not build the
# dependencies once more; a real network runs the release build.
DEBUG := $(CURDIR)/target/debug
RELEASE := $(CURDIR)/target/release
PREFIX ?= $(HOME)/.local
TORCH_MODE ?= cpu
MODELCHECK := $(CARGO) test --manifest-path tests/modelcheck/Cargo.toml --locked -j $(JOBS)
FUZZ ?= slice dense choice topk dct

.PHONY: help setup build release install demo test test-peers modelcheck check bench bench-train sim fuzz miner \
  validator window clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## bring what the system lacks, put libtorch into .libtorch/ (SETUP_APT=no, TORCH_MODE=cuda, TORCH=/path/to/torch)
	@scripts/setup.sh $(TORCH_MODE)

build: setup ## build all tools (debug profile: for the demo and the tests)
	@$(CARGO) build --workspace --all-targets --locked -j $(JOBS)

release: setup ## build all tools, optimized
	@$(CARGO) build --workspace --locked --release -j $(JOBS)

install: release ## install the tools into PREFIX (~/.local)
	@PREFIX="$(PREFIX)" scripts/install-files.sh

demo: build ## a network of miners, cheats and a validator on this machine; fails where a cheat is paid (RESUME=1, WINDOWS=n, DEVICE=cuda)
	@PATH="$(DEBUG):$$PATH" DEVICE="$(or $(DEVICE),auto)" pipelines/demo.sh $(if $(RESUME),resume,anew)

test: build ## all tests
	@PATH="$(DEBUG):$$PATH" $(CARGO) test --workspace --locked -j $(JOBS)
	@$(MODELCHECK)

test-peers: build ## compare with Bittensor's Python SDK, transformers and PyTorch in virtual environments (.venv)
	@PATH="$(DEBUG):$$PATH" scripts/test-peers.sh

modelcheck: ## every interleaving of a small network under the protocol's rules, minutes (tests/modelcheck/README.md)
	@$(MODELCHECK) --test exhaustive -- --include-ignored --nocapture --test-threads 1

check: setup ## format, lints, the dependency rule, licences, advisories
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets --locked -j $(JOBS) -- -D warnings
	@scripts/check-dependencies.sh

bench: build ## start-up, window overhead, codecs, memory beside their peers: JSON lines into target/bench/
	@PATH="$(DEBUG):$$PATH" scripts/bench.sh

bench-train: build ## training beside PyTorch, eager and compiled (MODEL=tiny|124m|350m|boltzmann, DTYPE=f32|bf16, ROUNDS=3)
	@PATH="$(DEBUG):$$PATH" ROUNDS="$(or $(ROUNDS),3)" scripts/bench-train.sh $(MODEL) $(DTYPE)

sim: ## the protocol in virtual time, under faults and lies: SEEDS=2000 of them, or SEED=7 with its trace (KIND=mixed|small|calm|failing)
	@$(CARGO) build -p sim --release --locked -j $(JOBS)
ifdef SEED
	@$(RELEASE)/sim --seed $(SEED) --kind $(or $(KIND),mixed) --trace
else
	@mkdir -p target/bench && rm -f target/bench/sim.jsonl
	@$(RELEASE)/sim --seeds $(or $(SEEDS),2000) --kind $(or $(KIND),mixed) --bench target/bench/sim.jsonl
	@$(RELEASE)/sim --seeds 40 --kind calm --bench target/bench/sim.jsonl
	@$(RELEASE)/sim --seeds 40 --kind failing --bench target/bench/sim.jsonl
endif

fuzz: ## hostile bytes for each decoder of lib/wire, SECONDS=60 each (nightly Rust, cargo install cargo-fuzz)
	@for target in $(FUZZ); do kept=fuzz/corpus/$$target; mkdir -p target/$$kept tools/lib/wire/$$kept; \
	  ASAN_OPTIONS=quarantine_size_mb=4 $(CARGO) +nightly fuzz run -O --fuzz-dir tools/lib/wire/fuzz --target-dir target/fuzz $$target \
	  target/$$kept tools/lib/wire/$$kept -- -max_total_time=$(or $(SECONDS),60) -rss_limit_mb=400 -malloc_limit_mb=64 -timeout=10 \
	  -print_final_stats=1 || exit; done

miner: ## mine for ever, with the settings of .env
	@PATH="$(RELEASE):$$PATH" pipelines/loop.sh miner

validator: ## validate for ever, with the settings of .env
	@PATH="$(RELEASE):$$PATH" pipelines/loop.sh validator

window: ## one window's stages: make window W=120 ROLE=miner
	@test -n "$(W)" || { echo 'make window W=120 ROLE=miner|validator'; exit 2; }
	@PATH="$(RELEASE):$$PATH" BZ_SHOW=1 pipelines/$(or $(ROLE),miner).sh $(W)

clean: ## remove what was built; .libtorch/ stays
	@$(CARGO) clean
