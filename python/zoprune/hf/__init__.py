"""Pruning of Hugging Face models."""
