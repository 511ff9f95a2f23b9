"""Every operator against plain PyTorch on this CPU: ``python -m benchmarks.cpu``."""
