# Every target does its own set-up: on a fresh Debian or Ubuntu with a Rust toolchain, `make demo` is all there is.

.DEFAULT_GOAL := help
.PHONY: help demo test torture bench setup build lint clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Migrate a million rows from MariaDB to PostgreSQL with a plain boto3 script, follow changes, and compare all
	@scripts/setup.sh demo
	@examples/demo/demo.sh

test: ## Run every test
	@scripts/setup.sh test
	@scripts/test.sh

torture: ## Follow a source through 200 kills and look whether anything is lost: DIRECTION=postgres-mariadb SEED=7 KILLS=200
	@scripts/setup.sh test
	@cargo build --bins
	@.venv/bin/python compat-tests/replication/torture.py --direction $(or $(DIRECTION),postgres-postgres) --kills $(or $(KILLS),200) $(if $(SEED),--seed $(SEED))

bench: ## Measure loads and changes against the databases' own tools; takes some two hours (docs/benchmarks.md)
	@scripts/setup.sh bench
	@.venv/bin/python bench/run.py

setup: ## Install what the other targets need and is missing: database servers, Python clients
	@scripts/setup.sh demo test bench

build: ## Build the release binary
	cargo build --release

lint: ## Check format and lints
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

clean: ## Remove what the targets made: build results, the Python environment, the demo's data
	@if [ -d .demo/sandbox ]; then echo "the demo's databases are still there: run examples/demo/demo.sh --clean" >&2; exit 1; fi
	cargo clean
	rm -rf .venv .pytest_cache compat-tests/.pytest_cache
