"""Run a plan's block: build problems, run the stages on every device, return rows as columns.

Lanes (trials of one stage) are laid out along a one-axis mesh with ``shard_map``; within a device
they are vmapped in batches small enough for the cache. Nothing here reads or writes files but the
data a block names.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from gaunlearn.certificate import IGNORED_KINKS
from gaunlearn.data.distributions import gaussian_mixture, initial_weights, isotropic
from gaunlearn.data.real import digits, load_npz
from gaunlearn.data.reduction import reduce_problem, rotate
from gaunlearn.limit import STATUSES
from gaunlearn.losses import LOSSES
from gaunlearn.models import MODELS, leaky_relu
from gaunlearn.schema import COLUMNS
from gaunlearn.sweep.identity import digest, key_words
from gaunlearn.sweep.plan import Block
from gaunlearn.sweep.spec import (
    Cell,
    DigitsData,
    IsotropicData,
    LeakyReluModel,
    LinearModel,
    MixtureData,
)
from gaunlearn.training import TrainingConfig
from gaunlearn.trial import (
    FRESH,
    FRESH_AGAIN,
    INITIALISATIONS,
    ORIGINAL,
    Setup,
    certify_stage,
    evaluate_stage,
    train_stage,
)
from gaunlearn.types import Coordinates, Dataset, Problem

__all__ = ["build_problem", "run_block", "setup_of"]

# Working set of one vmapped batch, in pairs (neuron, sample): about 4 MB of float64 per array.
_PAIRS_PER_BATCH = 500_000
# Where a retraining starts, and the second one whose distance gives the floor.
_STARTS = {"fresh": (FRESH, FRESH_AGAIN), "same": (ORIGINAL, FRESH)}


def setup_of(cell: Cell) -> Setup:
    """The static part of a cell's trials."""
    train, model = cell.train, cell.model
    kinks = cell.evaluate.kink_tol if cell.evaluate.kinks == "handled" else IGNORED_KINKS
    return Setup(
        model=leaky_relu(model.leak) if isinstance(model, LeakyReluModel) else MODELS[model.kind],
        n=1 if isinstance(model, LinearModel) else model.n,
        training=TrainingConfig(
            loss=LOSSES[train.loss],
            optimizer=train.optimizer,
            step_size=train.step_size,
            max_steps=train.max_steps,
            target_log_loss=-np.inf if train.target_log_loss is None else train.target_log_loss,
            target_epsilon=train.target_epsilon or 0.0,
            check_every=train.check_every,
            until_settled=train.end == "limit",
        ),
        to_limit=train.end == "limit",
        kink_tols=kinks,
        tau_budget=cell.evaluate.tau_budget,
    )


@partial(jax.jit, static_argnames=("kind", "m", "n_test", "columns", "n"))
def _sampled(
    kind: str,
    m: int,
    n_test: int,
    columns: int,
    n: int,
    keys: tuple[Array, Array],
    d: Array,
    alpha: Array,
    scale: Array,
) -> Problem:
    """A synthetic problem; d is traced, so that one program serves many."""
    if kind == "isotropic":
        given = isotropic(keys[0], m, n_test, columns, d)
    else:
        given = gaussian_mixture(keys[0], m, n_test, columns, d, alpha)
    return reduce_problem(given, initial_weights(keys[1], n, columns, d, scale))


@partial(jax.jit, static_argnames=("span", "n"))
def _rotated(data: Dataset, span: int, n: int, keys: Array, d: Array, scale: Array) -> Problem:
    weights = initial_weights(keys, n, data.x.shape[1], d, scale)
    return reduce_problem(Coordinates(data, span), weights)


def build_problem(block: Block, directory: Path, seed: int) -> Problem:
    """One seed's data and initial weights, in reduced coordinates, in float64.

    Nothing of size d is formed but what a file or scikit-learn holds.
    """
    cell = block.cells[0]
    spec, n = cell.data, setup_of(cell).n
    words = [key_words(f"init {which}", block.model, seed) for which in range(INITIALISATIONS)]
    init_keys = jax.random.wrap_key_data(jnp.stack(words))
    scale = jnp.asarray(cell.model.init_scale)
    if isinstance(spec, MixtureData | IsotropicData):
        key = jax.random.wrap_key_data(jnp.asarray(key_words("data", block.data, seed)))
        mixture = isinstance(spec, MixtureData)
        return _sampled(
            spec.kind,
            spec.m,
            spec.n_test,
            min(spec.d, spec.m + spec.n_test + mixture),
            n,
            (key, init_keys),
            jnp.asarray(float(spec.d)),
            jnp.asarray(spec.alpha if isinstance(spec, MixtureData) else 0.0),
            scale,
        )
    if isinstance(spec, DigitsData):
        data = digits(seed, spec.m, spec.classes)
    else:
        data = load_npz(directory / spec.path)
    given, basis = rotate(data)
    d = jnp.asarray(float(basis.shape[0]))
    return _rotated(jax.tree.map(jnp.asarray, given.data), given.span, n, init_keys, d, scale)


@cache
def _over_lanes(
    stage: Callable[..., Any], setup: Setup, shared: int, batch: int, devices: tuple[Any, ...]
) -> Callable[..., Any]:
    """jit(shard_map(batched vmap)) of ``stage(setup, *lane)``; the last ``shared`` arguments are
    the same for all lanes.
    """
    mesh = Mesh(np.asarray(devices), ("trial",))

    def on_device(lanes, common):
        return jax.lax.map(lambda lane: stage(setup, *lane, *common), lanes, batch_size=batch)

    lane = PartitionSpec("trial")
    return jax.jit(
        jax.shard_map(
            on_device, mesh=mesh, in_specs=(lane, PartitionSpec()), out_specs=lane, check_vma=False
        )
    )


def _run_lanes(
    stage: Callable[..., Any],
    setup: Setup,
    lanes: tuple[Any, ...],
    common: tuple[Any, ...] = (),
    pairs: int = 1,
) -> Any:
    """Run a stage on lanes (leading axis) over all devices, padding with copies of the last.

    Args:
        pairs: (neuron, sample) pairs that one lane works on at a time.
    """
    devices = tuple(jax.local_devices())
    count = jax.tree.leaves(lanes)[0].shape[0]
    share = -(-count // len(devices))
    batch = max(1, min(share, _PAIRS_PER_BATCH // pairs))
    padding = share * len(devices) - count
    padded = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], padding, axis=0)]), lanes
    )
    results = _over_lanes(stage, setup, len(common), batch, devices)(padded, common)
    return jax.tree.map(lambda leaf: leaf[:count], results)


def run_block(
    block: Block, directory: Path, report: Callable[[str], None] = lambda stage: None
) -> list[dict[str, np.ndarray]]:
    """Run all trials of a block.

    Args:
        directory: what relative paths in the specification refer to.
        report: called with the name of each stage as it begins.

    Returns:
        For each cell a dictionary from column name to array, one entry a trial, without the
        columns of parameters.
    """
    report("data")
    with jax.enable_x64(True):
        problems = [build_problem(block, directory, seed) for seed in block.seeds]
    dtype = block.cells[0].compute.dtype
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves).astype(dtype), *problems)
    # Without "highest", products of float32 are rounded to 10 bits on some accelerators.
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        return _run_stages(block, jax.tree.map(jnp.asarray, stacked), report)


def _run_stages(
    block: Block, problem: Problem, report: Callable[[str], None]
) -> list[dict[str, np.ndarray]]:
    """As ``run_block``, from its problems, stacked over seeds."""
    setup = setup_of(block.cells[0])
    seeds, forget = len(block.seeds), jnp.asarray(block.forget_indices)
    points = forget.shape[0]
    m = problem.y.shape[1]
    pairs = setup.n * m

    def per_point(tree: Any) -> Any:
        """Repeat seeds so that lane (seed, point) holds its seed's entry."""
        return jax.tree.map(lambda leaf: jnp.repeat(leaf, points, axis=0), tree)

    # Training needs no test set: dropping it keeps lanes small.
    bare = problem._replace(
        x_test=problem.x_test[:, :0],
        y_test=problem.y_test[:, :0],
        test_offset=problem.test_offset[..., :0],
    )
    # Trainings and retrainings are lanes of one call, as are their certificates: a program each.
    lanes = seeds * points
    everything = jnp.ones((seeds, m), bool)
    keep = jnp.tile(jnp.arange(m) != forget[:, None], (seeds, 1))
    needed = sorted({start for cell in block.cells for start in _STARTS[cell.retrain.init]})
    report("train")
    models = _run_lanes(
        train_stage,
        setup,
        (
            _concatenate(bare, *[per_point(bare)] * len(needed)),
            jnp.concatenate([jnp.full(seeds, ORIGINAL), jnp.repeat(jnp.asarray(needed), lanes)]),
            _concatenate(everything, *[keep] * len(needed)),
        ),
        pairs=pairs,
    )
    jax.block_until_ready(models)
    trained = _part(models, 0, seeds)
    retrained = {
        start: _part(models, seeds + place * lanes, lanes) for place, start in enumerate(needed)
    }

    rows = []
    fractions = jnp.asarray(block.step_fractions)
    for cell, content in zip(block.cells, block.contents, strict=True):
        report("evaluate")
        setup = setup_of(cell)
        first, again = _STARTS[cell.retrain.init]
        certificates = _run_lanes(
            certify_stage,
            setup,
            (
                _concatenate(bare, per_point(bare)),
                _concatenate(trained, retrained[first]),
                _concatenate(everything, keep),
            ),
            pairs=pairs * len(setup.kink_tols),
        )
        shared, swept = _run_lanes(
            evaluate_stage,
            setup,
            (
                per_point(problem),
                per_point(trained),
                per_point(_part(certificates, 0, seeds)),
                retrained[first],
                _part(certificates, seeds, lanes),
                jnp.full(lanes, first),
                retrained[again],
                jnp.tile(forget, seeds),
            ),
            (fractions,),
            pairs=pairs * len(setup.kink_tols) * len(block.step_fractions),
        )
        rows.append(_columns(block, content, jax.device_get(shared), jax.device_get(swept)))
    return rows


def _concatenate(*trees: Any) -> Any:
    """Lanes after lanes."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)


def _part(tree: Any, first: int, count: int) -> Any:
    """``count`` lanes from the ``first`` on."""
    return jax.tree.map(lambda leaf: leaf[first : first + count], tree)


def _columns(
    block: Block, content: dict[str, Any], shared: dict[str, Any], swept: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Flatten (seed, point, step) and add the identity columns."""
    count = len(block.step_fractions)
    columns = {name: np.repeat(np.asarray(value), count) for name, value in shared.items()}
    columns |= {name: np.asarray(value).reshape(-1) for name, value in swept.items()}
    for column in COLUMNS:
        if column.type == "float64" and column.name in columns:
            columns[column.name] = columns[column.name].astype(np.float64)
        elif column.type == "string" and column.name in columns:
            columns[column.name] = np.asarray(STATUSES)[columns[column.name]]
    identity = list(_identities(block))
    columns["seed"], columns["forget_index"], columns["step_fraction"] = map(
        np.asarray, zip(*identity, strict=True)
    )
    base = digest(content)
    columns["trial_id"] = np.asarray(
        [
            digest({"of": base, "seed": seed, "forget": index, "step_fraction": fraction})
            for seed, index, fraction in identity
        ]
    )
    return columns


def _identities(block: Block) -> Iterable[tuple[int, int, float]]:
    for seed in block.seeds:
        for index in block.forget_indices:
            for fraction in block.step_fractions:
                yield seed, index, fraction
