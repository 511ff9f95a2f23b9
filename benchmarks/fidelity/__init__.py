"""How close each estimator comes to the true sensitivity: ``python -m benchmarks.fidelity``."""
