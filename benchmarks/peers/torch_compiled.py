"""``torch_batched``, its step compiled by torch.compile."""

import torch

from .torch_batched import descend, judge, step
from .trials import Array, Samples

__all__ = ["judge", "train"]

# For each shape anew: what serves all shapes is slower. Of more shapes than this limit, which is 8
# unless one says so, the next would run as it is written.
torch._dynamo.config.recompile_limit = 64
_compiled = torch.compile(step, dynamic=False, fullgraph=True)


def train(samples: Samples, start: Array, u: Array, steps: int, step_size: float) -> Array:
    """See ``trials.NetworkPeer``."""
    return descend(_compiled, samples, start, u, steps, step_size)
