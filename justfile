# Run everything that must pass before a commit.
check: lint types layers test docs

# Style and formatting.
lint:
    ruff check .
    ruff format --check .

# Static types.
types:
    pyright

# Imports point one way.
layers:
    lint-imports

# The default tests: no network, no GPU.
test *args:
    pytest {{args}}

# The slow tests, in a fresh environment: an hour or more, meant for once a week.
weekly *args:
    .ci/weekly {{args}}

# Generated pages are fresh and the site builds without a warning.
docs:
    python docs/generate.py --check
    mkdocs build --strict

# Known vulnerabilities of what is installed here; asks the index of advisories.
audit:
    pip-audit --skip-editable --progress-spinner off

# Rewrite the generated parts of the docs and the README.
generate:
    python docs/generate.py

# Mend what ruff can mend.
fix:
    ruff check --fix .
    ruff format .
