"""The sources of the generated parts of the docs, one module a subject."""
