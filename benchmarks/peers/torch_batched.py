"""PyTorch, all networks side by side: torch.func's vmap and functional_call, compiled."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from .torch_loop import log_loss
from .trials import Array, Samples, Triples, multipliers

__all__ = ["judge", "train"]


class _Network(nn.Module):
    def __init__(self, w: Tensor, u: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)
        self.register_buffer("u", u)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.w.T) @ self.u


def _stepper(network: _Network, step_size: float):
    """(weights (t, n, d), x, y, keep) -> weights after one step."""
    buffers = dict(network.named_buffers())

    def loss(w: Tensor, x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
        q = y * functional_call(network, ({"w": w}, buffers), (x,))
        return log_loss(torch.where(keep, q, torch.inf))

    gradients = vmap(grad(loss))

    def step(w: Tensor, x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
        return w - step_size * gradients(w, x, y, keep)

    return step


def train(
    samples: Samples,
    start: Array,
    u: Array,
    steps: int,
    step_size: float,
    compiled: bool = False,
) -> Array:
    """See ``trials.NetworkPeer``."""
    network = _Network(torch.from_numpy(start[0]), torch.from_numpy(u))
    step = _stepper(network, step_size)
    if compiled:
        step = torch.compile(step)
    w = torch.from_numpy(start)
    data = tuple(torch.from_numpy(leaf) for leaf in (samples.x, samples.y, samples.keep))
    with torch.no_grad():
        for _ in range(steps):
            w = step(w, *data)
    return w.numpy()


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
        solved = multipliers(gram[place][kept][:, kept].numpy(), q[place][kept].numpy())
        level[place, kept] = torch.from_numpy(solved)
    residual = theta - torch.einsum("tmn,tmd->tnd", slopes * level[:, :, None], x)
    slack = torch.where(keep, level * (q - 1), -torch.inf)
    return residual.flatten(1).norm(dim=1), slack.amax(1), level, theta


def judge(samples: Samples, w: Array, v: Array, u: Array, fractions: tuple[float, ...]) -> Triples:
    """See ``trials.NetworkPeer``."""
    x, y, keep, forget, first, again, out = (
        torch.from_numpy(np.asarray(leaf))
        for leaf in (samples.x, samples.y, samples.keep, samples.forget, w, v, u)
    )
    epsilon_train, _, level, theta = _certificates(first, x, y, torch.ones_like(keep), out)
    rows = torch.arange(len(forget))
    gone, label = x[rows, forget], y[rows, forget]
    slope = out * (torch.einsum("tnd,td->tn", theta, gone) > 0)
    step = (level[rows, forget] * label)[:, None, None] * slope[:, :, None] * gone[:, None, :]
    found = []
    for fraction in fractions:
        unlearned = theta - fraction * step
        epsilon, delta, _, _ = _certificates(unlearned, x, y, keep, out)
        cosine = torch.cosine_similarity(unlearned.flatten(1), again.flatten(1))
        found.append(torch.stack([epsilon, delta, 1 - cosine]).numpy())
    return Triples(*np.stack(found, axis=-1), epsilon_train.numpy())
