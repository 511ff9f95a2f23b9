"""Measurements of every operator against plain PyTorch: ``make bench``."""
