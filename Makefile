# Each target does its own set-up. The README names the first two.
.PHONY: demo test lint bench clean
BASE ?=
PYTEST ?=

demo:  ## build examples/ twice, the second time from the cache inside the image
	scripts/setup demo
	scripts/demo "$(BASE)"

test:  ## all tests; PYTEST="-k name" narrows them
	scripts/setup test
	.venv/bin/python -m pytest $(PYTEST)

lint:
	scripts/setup test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench:  ## whole builds beside other builders, how they scale, and their parts; writes docs/performance.md
	scripts/setup test
	.venv/bin/python benchmarks/run.py
	.venv/bin/python benchmarks/imports.py
	.venv/bin/python benchmarks/scaling.py
	.venv/bin/python benchmarks/cache.py
	.venv/bin/python -m pytest -q benchmarks/test_parts.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis examples/*/rootfs.tar
