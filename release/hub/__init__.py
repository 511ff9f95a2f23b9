"""The source package for the Hugging Face kernels hub."""
