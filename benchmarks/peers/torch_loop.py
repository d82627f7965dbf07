"""PyTorch, one network at a time: what the script behind a paper's figure does."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from .trials import Array, Samples, Triples, multipliers

__all__ = ["DEVICE", "judge", "log_loss", "on_device", "on_host", "train"]

# A GPU if PyTorch finds one, as such scripts have it.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_device(array: Array) -> Tensor:
    """Numbers where PyTorch computes."""
    return torch.from_numpy(array).to(DEVICE)


def on_host(tensor: Tensor) -> Array:
    """Numbers where NumPy has them."""
    return tensor.cpu().numpy()


def log_loss(q: Tensor) -> Tensor:
    """Log of the summed logistic loss; beyond a margin of 30, log(softplus(-q)) is -q."""
    return torch.logsumexp(torch.where(q > 30, -q, torch.log(softplus(-q.clamp(max=30)))), -1)


def _train_one(x: Tensor, y: Tensor, w: Tensor, u: Tensor, steps: int, step_size: float) -> Tensor:
    w = w.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=step_size)
    for _ in range(steps):
        optimizer.zero_grad()
        log_loss(y * (torch.relu(x @ w.T) @ u)).backward()
        optimizer.step()
    return w.detach()


def train(samples: Samples, start: Array, u: Array, steps: int, step_size: float) -> Array:
    """See ``trials.NetworkPeer``."""
    found = []
    for x, y, keep, w in zip(samples.x, samples.y, samples.keep, start, strict=True):
        given = (on_device(leaf) for leaf in (x[keep], y[keep], w, u))
        found.append(on_host(_train_one(*given, steps, step_size)))
    return np.stack(found)


def _certificate(w: Tensor, x: Tensor, y: Tensor, u: Tensor) -> tuple[float, float, Tensor, Tensor]:
    """epsilon, delta, multipliers, and w with least margin 1."""
    z = x @ w.T
    q = y * (torch.relu(z) @ u)
    theta, q = w / q.min(), q / q.min()
    slopes = y[:, None] * (z > 0) * u
    gram = (slopes @ slopes.T) * (x @ x.T)
    level = on_device(multipliers(on_host(gram), on_host(q)))
    residual = theta - (slopes * level[:, None]).T @ x
    return float(residual.norm()), float((level * (q - 1)).max()), level, theta


def judge(samples: Samples, w: Array, v: Array, u: Array, fractions: tuple[float, ...]) -> Triples:
    """See ``trials.NetworkPeer``."""
    out = on_device(u)
    found, trained = [], []
    for place, forget in enumerate(samples.forget):
        x, y, first, again = (on_device(leaf[place]) for leaf in (samples.x, samples.y, w, v))
        keep = on_device(samples.keep[place])
        epsilon_train, _, level, theta = _certificate(first, x, y, out)
        trained.append(epsilon_train)
        slope = out * (theta @ x[forget] > 0)
        step = level[forget] * y[forget] * slope[:, None] * x[forget]
        for fraction in fractions:
            unlearned = theta - fraction * step
            epsilon, delta, _, _ = _certificate(unlearned, x[keep], y[keep], out)
            cosine = torch.cosine_similarity(unlearned.flatten(), again.flatten(), dim=0)
            found.append((epsilon, delta, 1 - float(cosine)))
    triples = np.array(found).reshape(len(samples.y), len(fractions), 3)
    return Triples(*np.moveaxis(triples, -1, 0), np.array(trained))
