"""How well is a border found with a tenth of the points of a grid?

Regions with a known border, a margin that is the distance to it plus noise of each seed and point,
as trials would give it. Compared are the search of ``gaunlearn.border`` with a tenth of the points,
the full grid, and a coarser full grid of as many points as the search has. The error is the mean
distance between the border found and the true one, in spacings of the full grid: the larger of the
two means (from one to the other and back), so that what is missed counts.

    python benchmarks/border.py [--quick]
"""

import argparse

import numpy as np
from common import begin, table, tell
from scipy.spatial import cKDTree

from gaunlearn.border import coarse_points, curves, points_to_add, spread_of

SEEDS = 9
SHARE = 0.1


def circle(i, j):
    return 0.31 - np.hypot(i - 0.47, j - 0.52)


def power_law(i, j):
    """j = 0.2 / i, like d = c m^2 on log axes bent: convex, leaves the square on two sides."""
    return (j - 0.12 / (i + 0.1)) / np.hypot(1, 0.12 / (i + 0.1) ** 2)


def wave(i, j):
    return (j - 0.5 - 0.2 * np.sin(6 * i)) / np.hypot(1, 1.2)


def two_regions(i, j):
    return np.maximum(0.16 - np.hypot(i - 0.25, j - 0.3), 0.2 - np.hypot(i - 0.7, j - 0.68))


REGIONS = (circle, power_law, wave, two_regions)


def points_along(lines, count=4000):
    """Points on piecewise linear lines, evenly spread."""
    starts = np.concatenate([line[:-1] for line in lines])
    ends = np.concatenate([line[1:] for line in lines])
    lengths = np.linalg.norm(ends - starts, axis=1)
    places = np.linspace(0, lengths.sum(), count, endpoint=False)
    which = np.searchsorted(np.cumsum(lengths), places, side="right")
    before = np.cumsum(lengths) - lengths
    along = ((places - before[which]) / lengths[which])[:, None]
    return starts[which] * (1 - along) + ends[which] * along


def error(lines, truth):
    """The larger mean distance between two borders; inf if none was found."""
    if not lines:
        return np.inf
    mine = points_along(lines)
    return max(cKDTree(truth).query(mine)[0].mean(), cKDTree(mine).query(truth)[0].mean())


def search(margins, budget):
    shape = margins.shape[:2]
    available, cost = np.ones(shape, bool), np.ones(shape)
    new = coarse_points(available, 5)
    chosen = np.zeros_like(new)
    while new.any():
        chosen |= new
        known = np.where(chosen[:, :, None], margins, np.nan)
        left = min(budget - chosen.sum(), 25)
        new = points_to_add(spread_of(known), available, cost, left, 5)
    return np.where(chosen, spread_of(margins).median, np.nan), int(chosen.sum())


def coarser(region, size, count, noise, rng):
    """The border of a full grid of about ``count`` points, in units of the finer one's spacing."""
    few = int(np.sqrt(count))
    place = np.linspace(0, 1, few)
    field = region(place[:, None], place)[:, :, None] + noise * rng.normal(size=(few, few, SEEDS))
    return [line * (size - 1) / (few - 1) for line in curves(np.median(field, axis=2))]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    args = parser.parse_args()
    repetitions = 3 if args.quick else 20
    begin("border", args.quick)
    tell(f"{repetitions} repetitions, {SEEDS} seeds; distances and noise in spacings of the grid")
    rows = []
    for region in REGIONS:
        for size in (65, 129):
            fine = np.linspace(0, 1, 1025)
            truth = points_along(curves(region(fine[:, None], fine))) * (size - 1) / 1024
            place = np.linspace(0, 1, size)
            field = region(place[:, None], place)[:, :, None]
            for noise in (0.0, 1.0, 3.0):
                rng = np.random.default_rng(0)
                found = []
                for _ in range(repetitions):
                    scale = noise / (size - 1)
                    margins = field + scale * rng.normal(size=(size, size, SEEDS))
                    seen, used = search(margins, int(SHARE * size**2))
                    whole = curves(spread_of(margins).median)
                    even = coarser(region, size, used, scale, rng)
                    found.append((used, *(error(e, truth) for e in (curves(seen), whole, even))))
                used, mine, full, even = np.median(found, axis=0)
                rows.append(
                    {
                        "region": region.__name__,
                        "N": size,
                        "noise": noise,
                        "points": f"{used:.0f} ({100 * used / size**2:.1f} %)",
                        "search": f"{mine:.3f}",
                        "full grid": f"{full:.3f}",
                        "as many points, even": f"{even:.3f}",
                    }
                )
    table("The border found with a tenth of the points", rows)


if __name__ == "__main__":
    main()
