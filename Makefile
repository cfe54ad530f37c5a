# Shortcuts for contributors; CONTRIBUTING.md explains them. `make` alone runs the quick tests.
python := $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: test all long lint format bench pictures proof lock

test:  ## quick tests
	$(python) scripts/run_tests.py

all:  ## all tests and checks, as CI runs them
	$(python) scripts/run_tests.py --all

long:
	$(python) scripts/run_tests.py --long

lint:
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

format:
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

bench:
	$(python) -m scripts.bench all --write

pictures:
	$(python) -m scripts.make_pictures

proof:  ## the tables of docs/proof.md, from the markers of the tests
	$(python) -m scripts.make_proof

lock:  ## lock files with exact versions, after a change of requirements*.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(python) -m uv pip compile -q --universal --generate-hashes --no-annotate \
		--python-version 3.11 requirements.txt -o requirements.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(python) -m uv pip compile -q --universal --generate-hashes --no-annotate \
		--python-version 3.11 -c requirements.lock requirements-dev.txt -o requirements-dev.lock
