"""Lanes, the trials of one stage, on all devices: laid out, batched, and let go when they end.

Each device works off its lanes a batch at a time, however many there are: a program is compiled for
a capacity, which blocks of other sizes share. A CPU runs it once for each core, on shares of the
lanes; where there is little to do, its programs are compiled quickly and take a lane at a time.
Nothing here knows what a lane computes.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from gaunlearn.compiler import WORK, full_options, loop_options, quick_options
from gaunlearn.sweep.host import host_cores
from gaunlearn.sweep.rehearsal import Rehearsal
from gaunlearn.sweep.traced import Compiled, program_of, traced

__all__ = [
    "Terms",
    "forget_capacities",
    "map_lanes",
    "on_all_devices",
    "pad_to_capacity",
    "programs_for",
    "programs_on_device",
    "run_in_rounds",
    "run_in_turns",
    "run_lanes",
    "take",
]

# A capacity holds at least so many batches: the last one is full of copies.
_BATCHES = 8
# (neuron, sample) pairs of a batch below which operations cost more than their arithmetic.
_LEAST_PAIRS = 8192
# When so few of a batch's places are needed, a narrower batch takes over.
_NARROW = 4
# Room for so many entries costs nothing, if all of them take no more bytes. Sweeps that differ in
# how much there is of anything then share their programs.
_SMALL_CAPACITY = 256
_SMALL_BYTES = 1 << 24
# (neuron, sample) pairs that a quickly compiled program may go over on each core, all calls
# together: about where it has lost what was saved in tracing and compiling it
# (docs/measurements.md, *Compiling*). A lane that is alone costs no less than one of so many pairs.
_QUICK_PAIRS, _ALONE_PAIRS = 40_000_000, 1000
# What the results of a turn may take on a device.
_TURN_BYTES = 1 << 30


def take(tree: Any, places: Any) -> Any:
    """One entry (leading axis), or some, of everything in a tree.

    Args:
        places: from 0 up, in range.
    """

    def entry(leaf):
        if isinstance(leaf, np.ndarray):
            return leaf[places]
        # Plain indexing traces several more operations a leaf, for numbers that are out of range.
        return leaf.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)

    return jax.tree.map(entry, tree)


def _side_by_side(one: Callable[..., Any], width: int) -> Callable[..., Any]:
    """``one`` on so many lanes at once. On CPUs a lane that is alone is not batched: that takes a
    third less to trace.
    """
    if width > 1 or jax.default_backend() != "cpu":
        return jax.vmap(one)

    def alone(*lanes):
        return jax.tree.map(lambda leaf: leaf[None], one(*(take(lane, 0) for lane in lanes)))

    return alone


def map_lanes(one: Callable[[Any], Any], lanes: Any, count: Int[Array, ""], batch: int) -> Any:
    """``one`` on the first ``count`` lanes, ``batch`` side by side; others stay zero. Jittable.

    Args:
        lanes: stacked along the first axis, whose length is a multiple of ``batch``.
    """
    one = jax.jit(one)  # traced once for the shapes and for the batches
    shapes = jax.eval_shape(one, take(lanes, 0))
    total = jax.tree.leaves(lanes)[0].shape[0]
    results = jax.tree.map(lambda s: jnp.zeros((total, *s.shape), s.dtype), shapes)

    def one_batch(place, results):
        first = place * batch
        part = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, batch), lanes)
        return jax.tree.map(
            lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, new, first, 0),
            results,
            _side_by_side(one, batch)(part),
        )

    return jax.lax.fori_loop(0, -(-count // batch), one_batch, results)


def run_in_rounds(
    lanes: Any,
    count: Int[Array, ""],
    batch: int,
    begin: Callable[[Any], Any],
    one_round: Callable[[Any, Any], Any],
) -> tuple[Any, Int[Array, ""]]:
    """Run the first ``count`` lanes to their ends; jittable.

    A vmapped while-loop runs all lanes until the slowest has ended. Here a lane that has ended
    leaves its place in the batch to one that waits. When nobody waits any more and few are left, a
    narrow batch goes on with these: the wide one would mostly carry lanes that have ended.

    Args:
        lanes: what each lane is; the first lanes run first.
        begin: lane -> state, which has a boolean ``ended``.
        one_round: (lane, state) -> state.

    Returns:
        The states that lanes ended in, and the places that batches had, summed over their rounds.
    """
    total = jax.tree.leaves(lanes)[0].shape[0]

    @jax.jit  # traced once for batches of both widths
    def advance(lane, state):
        moved = one_round(lane, state)
        return jax.tree.map(lambda old, new: jnp.where(state.ended, old, new), state, moved)

    def more_than(enough, carry):
        return jnp.sum(~carry[0].ended) > enough

    def go_on(width, carry):
        states, available = carry
        if width == 1:
            places = jnp.argmin(states.ended)[None]
        else:
            places = jnp.argsort(states.ended, stable=True)[:width]
        moved = _side_by_side(advance, width)(take(lanes, places), take(states, places))
        states = jax.tree.map(lambda leaf, part: leaf.at[places].set(part), states, moved)
        return states, available + width

    states = map_lanes(begin, lanes, count, batch)
    states = states._replace(ended=states.ended | (jnp.arange(total) >= count))
    carry = states, jnp.asarray(0)
    narrow = max(1, batch // _NARROW)
    widths = ((batch, narrow), (narrow, 0)) if narrow < batch else ((batch, 0),)
    for width, enough in widths:
        carry = jax.lax.while_loop(partial(more_than, enough), partial(go_on, width), carry)
    return carry


Stage = Callable[..., Any]
_capacities: dict[Any, set[int]] = {}
_lock = threading.Lock()


class Terms(NamedTuple):
    """On what terms lanes run.

    Attributes:
        size: bytes that one lane's results take.
        pairs: (neuron, sample) pairs that one lane works on at a time.
        batch_pairs: how many a batch may work on.
        rehearsal: what this is part of; None if it is to be computed.
        is_loop: whether programs are small, and go round a loop for most of their time.
        later: as much again of this work as is known to come, in units of it.
        in_batches: whether also programs that are compiled quickly take lanes in batches.
    """

    size: int
    pairs: int
    batch_pairs: int
    rehearsal: Rehearsal | None = None
    is_loop: bool = False
    later: float = 0.0
    in_batches: bool = False

    def widths(self) -> tuple[int, int]:
        """The fewest and the most lanes of a batch."""
        return -(-_LEAST_PAIRS // self.pairs), self.batch_pairs // self.pairs


def _capacity(key: Any, count: int, size: int) -> int:
    """The smallest capacity that programs of ``key`` were compiled for and that is enough; else
    the next power of two, and no less than what costs nothing.

    Args:
        size: bytes of an entry.
    """
    count = max(count, min(_SMALL_BYTES // max(1, size), _SMALL_CAPACITY))
    with _lock:
        known = _capacities.setdefault(key, set())
        enough = [capacity for capacity in known if capacity >= count]
        if not enough:
            enough = [1 << (count - 1).bit_length()]
            known.add(enough[0])
        return min(enough)


def programs_on_device() -> int:
    """How many programs a device runs side by side: on a CPU, where hardly any operation here is
    worth more than one core, one for each core.
    """
    devices = jax.local_devices()
    return max(1, host_cores() // len(devices)) if devices[0].platform == "cpu" else 1


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(host_cores(), "lanes")


def programs_for(count: int, terms: Terms) -> int:
    """To how many programs so many lanes are dealt one by one, so that each gets its share of those
    that take long, which come first: as many as devices run side by side, or as have enough to do.
    """
    devices = len(jax.local_devices())
    fewest, _ = terms.widths()
    return devices * max(1, min(programs_on_device(), count // (devices * fewest)))


def on_all_devices(tree: Any) -> Any:
    """Arrays that lanes share, put where their programs take them from."""
    mesh = Mesh(np.asarray(jax.local_devices()), ("trial",))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def pad_to_capacity(tree: Any, key: Any) -> Any:
    """Repeat the last entry (leading axis) up to a capacity, so that programs that take what lanes
    share are compiled for few shapes.

    Args:
        key: hashable; names the programs.
    """
    leaves = jax.tree.leaves(tree)
    count = leaves[0].shape[0]
    size = sum(leaf.nbytes for leaf in leaves) // count
    source = np.minimum(np.arange(_capacity(key, count, size)), count - 1)
    return take(tree, source)


def _batch_of(count: int, capacity: int, least: int, most: int) -> int:
    """How many lanes to work on side by side, a divisor of the capacity.

    Args:
        count: lanes that there are.
        least: so many, even if that is all of them.
        most: what fits.
    """
    # Most of a small capacity may be room.
    filled = capacity if capacity > _SMALL_CAPACITY else count
    batch = max(1, min(most, max(least, filled // _BATCHES)))
    return min(capacity, 1 << (batch.bit_length() - 1))  # capacities are powers of two


def forget_capacities() -> None:
    """Compile for what is needed from here on; larger programs may not have fitted into memory."""
    with _lock:
        _capacities.clear()


def _compile(
    stage: Stage,
    static: Any,
    batch: int,
    devices: tuple[Any, ...],
    options: tuple[tuple[str, bool | int], ...],
    tree: Any,
    shapes: tuple[Any, ...],
) -> Compiled:
    """jit(shard_map) of the stage on the leaves of its arguments, lanes and their counts sharded
    over devices.

    Args:
        options: the compiler's.
        tree: of (lanes, counts, common).
        shapes: and types of its leaves.
    """
    mesh = Mesh(np.asarray(devices), ("trial",))
    lane, common = PartitionSpec("trial"), PartitionSpec()
    lanes, _, shared = jax.tree.unflatten(tree, range(len(shapes)))
    specs = jax.tree.leaves(
        (jax.tree.map(lambda _: lane, lanes), lane, jax.tree.map(lambda _: common, shared))
    )

    def on_device(*leaves):
        lanes, count, common = jax.tree.unflatten(tree, leaves)
        return stage(static, batch, lanes, count[0], common)

    program = jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=tuple(specs), out_specs=lane, check_vma=False)
    )
    name = f"{stage.__module__}.{stage.__qualname__} {static!r} {batch} {tree!r}"
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    shardings = [NamedSharding(mesh, spec) for spec in specs]
    return traced(program, name, arguments, shardings, dict(options))


def _run(
    stage: Stage,
    static: Any,
    lanes: Any,
    common: Any,
    terms: Terms,
    programs: int,
    capacity: int,
    batch: int,
    passes: int,
    ahead: float,
    keep: Callable[[Any], Any],
) -> Any:
    """As ``run_in_turns``, dealt to so many programs for a capacity, which is enough."""
    devices = tuple(jax.local_devices())
    count = jax.tree.leaves(lanes)[0].shape[0]
    room = len(devices) * capacity
    leaves, tree = jax.tree.flatten((lanes, np.zeros(len(devices), int), common))
    laid_out = len(jax.tree.leaves(lanes))  # the others are as long as they are
    shapes = tuple(
        (
            (room, *np.shape(leaf)[1:]) if place < laid_out else np.shape(leaf),
            jax.dtypes.canonicalize_dtype(leaf.dtype),
        )
        for place, leaf in enumerate(leaves)
    )
    rehearsal = terms.rehearsal
    pairs = max(terms.pairs, _ALONE_PAIRS)
    quick = (WORK if rehearsal is None else rehearsal.work).stays_quick(
        (stage, static, tree, shapes),
        count * pairs * passes,
        _QUICK_PAIRS * host_cores(),
        pairs * ahead,
    )
    thorough = loop_options if terms.is_loop else full_options
    options = tuple((quick_options if quick else thorough)().items())
    if quick and not terms.in_batches and devices[0].platform == "cpu":
        batch = 1  # there is less to trace and to compile
    how = stage, static, batch, devices, options, tree, shapes
    if rehearsal is not None:
        rehearsal.go_on()
    program = program_of(how, lambda: _compile(*how))
    if rehearsal is not None:
        nothing = jax.tree.map(lambda each: np.zeros(each.shape, each.dtype), program.results)
        return take(jax.device_get(keep(nothing)), np.arange(count) % room)
    wide = jax.config.values["jax_enable_x64"]

    def work(mine: np.ndarray) -> Any:
        """The results of some lanes."""
        place, device = np.divmod(np.arange(len(mine)), len(devices))
        places = device * capacity + place
        source = np.full(room, mine[-1])
        source[places] = mine
        counts = np.bincount(device, minlength=len(devices))
        given = jax.tree.leaves((take(lanes, source), counts, common))
        # Of a thread's own; what ``keep`` does depends on no other setting.
        with jax.enable_x64(wide):
            return take(jax.device_get(keep(program(*given))), places)

    share_of = np.arange(count) % programs // len(devices)
    shares = [np.flatnonzero(share_of == share) for share in np.unique(share_of)]
    if len(shares) == 1:
        return work(shares[0])
    doing = [_threads().submit(work, mine) for mine in shares]
    wait(doing)  # also where one fails: the others hold memory as long as they run

    def together(*parts: np.ndarray) -> np.ndarray:
        whole = np.empty((count, *parts[0].shape[1:]), parts[0].dtype)
        for mine, part in zip(shares, parts, strict=True):
            whole[mine] = part
        return whole

    return jax.tree.map(together, *(each.result() for each in doing))


def run_lanes(
    stage: Stage, static: Any, lanes: Any, common: Any, terms: Terms, passes: int = 1
) -> Any:
    """Run ``stage(static, batch, lanes, count, common)`` on shares of the lanes, on all devices.

    Args:
        static: hashable; part of the compiled program.
        lanes: NumPy arrays, stacked along the first axis; dealt out one by one.
        common: what lanes share, the same on all devices.
        passes: about how many times a lane goes over its pairs, or as it counts in what a quickly
            compiled program may do.

    Returns:
        The results, in the order of the lanes, as NumPy arrays.
    """
    devices = tuple(jax.local_devices())
    count = jax.tree.leaves(lanes)[0].shape[0]
    programs = programs_for(count, terms)
    share = -(-count // programs)
    capacity = _capacity((stage, static, terms.pairs, devices), share, terms.size)
    batch = _batch_of(share, capacity, *terms.widths())
    how = programs, capacity, batch, passes, terms.later * passes * count, lambda results: results
    return _run(stage, static, lanes, common, terms, *how)


def run_in_turns(
    stage: Stage,
    static: Any,
    lanes: Any,
    common: Any,
    terms: Terms,
    passes: int,
    ahead: int,
    keep: Callable[[Any], Any] = lambda results: results,
) -> Any:
    """As ``run_lanes``, for a large program that runs on few lanes and on many: in turns, so that
    it is compiled once on CPUs, where wide batches gain nothing, and results take bounded memory.

    Args:
        ahead: passes of lanes that the program will run on after these, all together, but for what
            ``terms`` say comes later.
        keep: what is kept of the results of a turn.
    """
    devices = tuple(jax.local_devices())
    count = jax.tree.leaves(lanes)[0].shape[0]
    programs = programs_for(count, terms)
    share = -(-count // programs)
    key = stage, static, terms.pairs, devices
    on_cpu = devices[0].platform == "cpu"
    with _lock:
        known = max(_capacities.get(key, ()), default=0)
    capacity = known if known and on_cpu else _capacity(key, share, terms.size)
    while capacity > 1 and capacity * terms.size * programs_on_device() > _TURN_BYTES:
        capacity //= 2
    batch = _batch_of(1 if on_cpu else share, capacity, *terms.widths())
    later = terms.later * (passes * count + ahead)
    parts, width = [], capacity * programs
    for turn in np.split(np.arange(count), range(width, count, width)):
        left = passes * (count - 1 - int(turn[-1])) + ahead + later
        how = programs, capacity, batch, passes, left, keep
        parts.append(_run(stage, static, take(lanes, turn), common, terms, *how))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
