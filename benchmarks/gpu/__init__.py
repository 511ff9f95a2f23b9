"""Builds, tests, sanitizes and measures on a GPU: ``make gpu-report``."""
