"""``python -m audit``: every GPU kernel compiled without a GPU, and its machine code judged."""
