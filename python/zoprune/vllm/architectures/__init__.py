"""One file for each architecture: its layout, and what its model needs beyond ``PrunedModel``."""
