# Each target works alone on a fresh clone: all that is needed is Python >= 3.11 and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# More threads than idle cores make small models slower, not faster: waiting threads sleep, and tests use one.
export OMP_WAIT_POLICY ?= passive
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo test check bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: tunewise needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) -V 2>&1)"; \
		  echo "hint: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,plot]'
	@touch $@

demo: $(STAMP)
	$(BIN)/tunewise demo --out demo

test: export OMP_NUM_THREADS = 1
test: check
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 8 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV)
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry tunewise
	$(BIN)/python -m pytest tests/test_architecture.py

bench: $(STAMP)
	$(BIN)/python -m bench.training
	$(BIN)/python -m bench.trunk
	$(BIN)/python -m bench.in_context
	$(BIN)/python -m bench.writing
	$(BIN)/python -m bench.lanes
	$(BIN)/python -m bench.qlora
	$(BIN)/python -m bench.gpu
	$(BIN)/python -m bench.data
	$(BIN)/python -m bench.compare
	$(BIN)/python -m bench.data_doctor
	$(BIN)/python -m bench.performance

clean:
	rm -rf $(VENV) .ruff_cache .import_linter_cache demo runs
