"""For all tests: one thread, as in a run, and the same examples of hypothesis every time."""

from __future__ import annotations

import torch
from hypothesis import settings

# small tensors: more threads are slower, and the processes of other tests get in each other's way
torch.set_num_threads(1)
# a red test is red for everybody; a slow machine is no error
settings.register_profile("reclaim", derandomize=True, deadline=None)
settings.load_profile("reclaim")
