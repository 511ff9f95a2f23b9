"""A whole model on a prompt, four ways: ``python -m benchmarks.e2e``."""
