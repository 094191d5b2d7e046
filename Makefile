# make test is all that a change must pass; make check is the quick part of it.
.PHONY: setup test golden chaos check format lint types imports unit constraints clean
bin := .venv/bin
# who sets it lets each of the thousand processes that the tests start compile all that it imports
unexport PYTHONDONTWRITEBYTECODE

# the unit tests are among all tests
test: lint types imports
	$(bin)/pytest -n 2 --dist worksteal
	$(bin)/pytest tests/chaos -m chaos

# kill -9 of real processes for a minute on each database; the full form is bench/chaos
chaos: setup
	$(bin)/pytest tests/chaos -m chaos

check: lint types imports unit

setup:
	@scripts/setup dev

format: setup
	$(bin)/ruff format
	$(bin)/ruff check --fix

lint: setup
	$(bin)/ruff format --check
	$(bin)/ruff check

types: setup
	$(bin)/mypy

imports: setup
	$(bin)/lint-imports

unit: setup
	$(bin)/pytest tests/unit -q

# writes the golden files of the dialects anew: look at what git shows as changed
golden: setup
	WRITE_GOLDEN=1 $(bin)/pytest tests/dialects/openai/test_openai_golden.py tests/dialects/modelslab tests/dialects/stablediffusionapi/test_stablediffusionapi_golden.py tests/dialects/soratasks/test_soratasks_golden.py

constraints: setup
	(sed -n '/^#/p' constraints.txt; $(bin)/pip freeze --all | grep -viE '^(pip|setuptools|torch|vitascope|-e)\b') > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
