"""PyTorch, all networks side by side: torch.func's vmap and functional_call."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from .torch_loop import DEVICE, log_loss, on_device, on_host
from .trials import Array, Samples, Triples, multipliers

__all__ = ["descend", "judge", "step", "train"]


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(0, dtype=torch.float64))
        self.register_buffer("u", torch.empty(0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.w.T) @ self.u


_NETWORK = _Network()
Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]


def step(w: Tensor, x: Tensor, y: Tensor, keep: Tensor, u: Tensor, step_size: float) -> Tensor:
    """Weights (t, n, d) after one step on the samples in ``keep``."""

    def loss(w: Tensor, x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
        q = y * functional_call(_NETWORK, {"w": w, "u": u}, (x,))
        return log_loss(torch.where(keep, q, torch.inf))

    return w - step_size * vmap(grad(loss))(w, x, y, keep)


def descend(
    step: Step, samples: Samples, start: Array, u: Array, steps: int, step_size: float
) -> Array:
    """Weights after some steps, however one is computed."""
    w, x, y, keep, out = (
        on_device(leaf) for leaf in (start, samples.x, samples.y, samples.keep, u)
    )
    with torch.no_grad():
        for _ in range(steps):
            w = step(w, x, y, keep, out, step_size)
    return on_host(w)


def train(samples: Samples, start: Array, u: Array, steps: int, step_size: float) -> Array:
    """See ``trials.NetworkPeer``."""
    return descend(step, samples, start, u, steps, step_size)


def _certificates(
    w: Tensor, x: Tensor, y: Tensor, keep: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """epsilon (t,), delta (t,), multipliers (t, m), and w with least kept margin 1."""
    z = torch.einsum("tmd,tnd->tmn", x, w)
    q = y * (torch.relu(z) @ u)
    least = torch.where(keep, q, torch.inf).amin(1)
    theta, q = w / least[:, None, None], q / least[:, None]
    slopes = (y * keep)[:, :, None] * (z > 0) * u
    gram = (slopes @ slopes.mT) * (x @ x.mT)
    level = torch.zeros_like(q)
    for place, kept in enumerate(keep):
        solved = multipliers(on_host(gram[place][kept][:, kept]), on_host(q[place][kept]))
        level[place, kept] = on_device(solved)
    residual = theta - torch.einsum("tmn,tmd->tnd", slopes * level[:, :, None], x)
    slack = torch.where(keep, level * (q - 1), -torch.inf)
    return residual.flatten(1).norm(dim=1), slack.amax(1), level, theta


def judge(samples: Samples, w: Array, v: Array, u: Array, fractions: tuple[float, ...]) -> Triples:
    """See ``trials.NetworkPeer``."""
    x, y, keep, forget, first, again, out = (
        on_device(np.asarray(leaf))
        for leaf in (samples.x, samples.y, samples.keep, samples.forget, w, v, u)
    )
    epsilon_train, _, level, theta = _certificates(first, x, y, torch.ones_like(keep), out)
    rows = torch.arange(len(forget), device=DEVICE)
    gone, label = x[rows, forget], y[rows, forget]
    slope = out * (torch.einsum("tnd,td->tn", theta, gone) > 0)
    step = (level[rows, forget] * label)[:, None, None] * slope[:, :, None] * gone[:, None, :]
    found = []
    for fraction in fractions:
        unlearned = theta - fraction * step
        epsilon, delta, _, _ = _certificates(unlearned, x, y, keep, out)
        cosine = torch.cosine_similarity(unlearned.flatten(1), again.flatten(1))
        found.append(on_host(torch.stack([epsilon, delta, 1 - cosine])))
    return Triples(*np.stack(found, axis=-1), on_host(epsilon_train))
