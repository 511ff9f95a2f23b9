"""A small model that answers questions about pictures: its data, its classes, its training."""
