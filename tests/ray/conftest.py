import importlib.util

# these need Ray, in the environment that `make test-vllm` makes
collect_ignore = [] if importlib.util.find_spec("ray") else ["test_job.py"]
