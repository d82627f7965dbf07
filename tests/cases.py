"""Problems that several tests share, made from a seeded generator."""

import numpy as np

__all__ = ["assert_same_rows", "lift", "network_at_kinks", "output_weights", "separated_network"]


def output_weights(n):
    """Alternating +-1/sqrt(n)."""
    return np.where(np.arange(n) % 2 == 0, 1.0, -1.0) / np.sqrt(n)


def separated_network(rng, n, m, d, correlation=0.0):
    """(W, u, x, y): a random network that separates its random samples, far from kinks.

    ``correlation`` mixes one common direction into the samples.
    """
    u = output_weights(n)
    y = np.where(np.arange(m) % 2 == 0, 1.0, -1.0)
    for _ in range(200):
        x = rng.normal(size=(m, d)) / np.sqrt(d) + correlation * rng.normal(size=d) / np.sqrt(d)
        lam = rng.uniform(0.5, 2.0, m)
        W = 0.5 * rng.normal(size=(n, d))
        # Perceptron-like steps until it separates; the rest of W is left to be epsilon.
        for _ in range(100):
            active = W @ x.T > 0
            margins = y * (u @ np.maximum(W @ x.T, 0))
            if margins.min() > 0.02:
                return W, u, x, y
            W += 0.5 * (u[:, None] * active * (lam * y * (margins <= 0.1))) @ x
    raise AssertionError("no separated network found")


def network_at_kinks(rng, n, m, d, kinks_per_sample, correlation=0.0):
    """As ``separated_network``, with some pairs of each sample moved to zero pre-activation."""
    for _ in range(100):
        W, u, x, y = separated_network(rng, n, m, d, correlation)
        kink = np.zeros((n, m), bool)
        for i in range(m):
            kink[rng.permutation(n)[:kinks_per_sample], i] = True
        for j in range(n):
            if kink[j].any():
                rows = x[kink[j]]
                W[j] -= np.linalg.pinv(rows) @ (rows @ W[j])
        z = np.where(kink, 0.0, W @ x.T)
        if (y * (u @ np.maximum(z, 0))).min() > 0.01:
            return W, u, x, y, kink
    raise AssertionError("no separated network found")


def lift(weights, basis, rng):
    """Weights (k, n, p + k) in reduced coordinates as vectors (k, n, d): the first p along the
    columns of ``basis`` (d, p), the others along a random frame of each neuron's own outside it.
    """
    _, n, width = weights.shape
    d, p = basis.shape
    lifted = weights[:, :, :p] @ basis.T
    for j in range(n):
        outside = rng.normal(size=(d, width - p))
        outside -= basis @ (basis.T @ outside)
        rank = min(width - p, d - p)
        frame = np.linalg.qr(outside)[0][:, :rank]
        assert not np.any(weights[:, j, p + rank :]), "there are no so many dimensions"
        lifted[:, j] += weights[:, j, p : p + rank] @ frame.T
    return lifted


def assert_same_rows(got, want):
    """To 1e-9 relative, or 1e-12 where a value is rounding; exactly elsewhere; in any order."""
    got, want = (frame.sort_values("trial_id", ignore_index=True) for frame in (got, want))
    assert list(got) == list(want)
    assert got["trial_id"].tolist() == want["trial_id"].tolist()
    for name in want:
        if want[name].dtype.kind in "fi":  # a column of integers that lacks some is one of floats
            np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=1e-12, err_msg=name)
        else:
            assert got[name].equals(want[name]), name
