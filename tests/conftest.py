"""One thread, fixed seeds, and Triton's interpreter where there is no GPU."""

import os

import torch
from hypothesis import settings

# read by Triton when it is first imported, so it must be set before anything imports it
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)

settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("fixed")
