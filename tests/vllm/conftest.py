import importlib.util

# these need vLLM, in the environment that `make test-vllm` makes
NEED_VLLM = [
    "test_architectures.py",
    "test_parallel.py",
    "test_server.py",
    "test_serving.py",
    "test_settings.py",
    "test_start.py",
]
collect_ignore = [] if importlib.util.find_spec("vllm") else NEED_VLLM
