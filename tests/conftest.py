"""Settings of all tests: one thread (tests run beside other work), no hub, quiet libraries."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

from hypothesis import settings

# The same examples on every run: a suite that fails one time in a hundred teaches people to run it again.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
