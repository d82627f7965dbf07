"""What a specification can say: axes, designs, derived values, filters, overrides."""

import math
import tomllib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaunlearn.sweep.axes import Design, Interval, fill, read_value
from gaunlearn.sweep.expressions import ExpressionError, parse
from gaunlearn.sweep.plan import families_of, survey
from gaunlearn.sweep.problems import _file, build_problems, size_of
from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.shapes import Size
from gaunlearn.sweep.spec import load_spec, question_of

BASE = """# Which?
[sweep]
seeds = 2
[data]
kind = "isotropic"
m = 4
d = 50
[model]
kind = "two_layer_relu"
n = 8
[train]
max_steps = 100
"""


@pytest.fixture
def load(tmp_path):
    """A function from overrides, and perhaps more text, to a Sweep."""

    def read(*overrides, more=""):
        path = tmp_path / "spec.toml"
        path.write_text(BASE + more)
        return load_spec(path, overrides)

    return read


def cells(sweep):
    return [cell for group in sweep.trainings() for cell in group]


# -- expressions -----------------------------------------------------------------------------


NUMBERS = st.integers(-9, 9) | st.floats(-9, 9).map(lambda v: round(v, 3))
TERMS = st.recursive(
    NUMBERS.map(repr) | st.sampled_from(["m", "d", "train.max_steps"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/%"), inner).map("({0[0]} {0[1]} {0[2]})".format)
        | inner.map("(-{})".format)
        | inner.map("abs({})".format)
    ),
    max_leaves=6,
)
VALUES = {"m": 4, "d": 50.5, "train.max_steps": 7}


@given(TERMS)
@settings(max_examples=200, deadline=None)
def test_arithmetic_is_that_of_python(text):
    python = text.replace("train.max_steps", "7")
    try:
        want = eval(python, {"__builtins__": {"abs": abs}}, {"m": 4, "d": 50.5})
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match=r"zero|modulo"):
            parse(text).value(VALUES.__getitem__)
        return
    got = parse(text).value(VALUES.__getitem__)
    assert got == want or (math.isnan(got) and math.isnan(want))
    assert type(got) is type(want)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        ("7 // 2", 3),
        ("round(sqrt(d))", 7),
        ("max(m, 3, d)", 50.5),
        ("3 <= m < 5", True),
        ("not (m == 4) or d > 50", True),
        ("log2(8) + log10(100) + exp(0) + floor(1.5) + ceil(1.5)", 9.0),
    ],
)
def test_expressions_by_hand(text, want):
    assert parse(text).value(VALUES.__getitem__) == pytest.approx(want)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "[m][0]",
        "open('x')",
        "m if d else 1",
        "f'{m}'",
        "m := 2",
        "print(m)",
        "max(*m)",
        "round(m, ndigits=1)",
        "",
        "2 +",
        "m; d",
        "1 " + "+ 1" * 400,
        "9" * 100,
        "(" * 300 + ")" * 300,
    ],
)
def test_nothing_else_of_the_language_is_read(text):
    with pytest.raises(ExpressionError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "9 ** 9 ** 9",
        "1 / 0",
        "sqrt(-1)",
        "exp(10000)",
        "'a' * 9",
        "max()",
        "round(1e308)",
        "1000000000 * 10 ** 70",
        "round(1e308) * round(1e308) * round(1e308)",
        "2 ** 200 + 2 ** 256",
        "m and d",
        "'a' < 2",
    ],
)
def test_what_has_no_value_says_so(text):
    with pytest.raises(ExpressionError, match=r"^\W"):
        parse(text).value(VALUES.__getitem__)


# -- ranges and designs ----------------------------------------------------------------------


def number(value, whole=False):
    return read_value(value, whole=whole, number=True, listed=False)


def test_ranges_by_hand():
    assert number({"start": 0, "stop": 1, "count": 5}) == [0, 0.25, 0.5, 0.75, 1]
    got = number({"start": 1, "stop": 1000, "count": 4, "scale": "log"})
    assert got == pytest.approx([1, 10, 100, 1000], rel=1e-14)
    assert got[-1] == 1000
    assert number({"start": 2, "stop": 6, "count": 9}, whole=True) == [2, 3, 4, 5, 6]
    assert number({"start": 5, "stop": 1, "count": 3}) == [5, 3, 1]


@pytest.mark.parametrize(
    ("start", "stop", "count", "scale"),
    [
        (0.1, 1.0, 10, "linear"),
        (-1, 0.3, 5, "linear"),
        (0.2, 0.9, 8, "linear"),
        (1, 0, 3, "linear"),
        (0.1, 1.0, 10, "log"),
        (0.9, 0.2, 8, "log"),
    ],
)
def test_ranges_end_where_they_say(start, stop, count, scale):
    value = {"start": start, "stop": stop, "count": count, "scale": scale}
    found = read_value(value, whole=False, number=True, listed=False)
    assert (found[0], found[-1], len(found)) == (start, stop, count)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"start": 1, "stop": 2}, "count must be a whole number from 2 to 16777216, not None"),
        (
            {"start": 1, "stop": 2, "count": 10**9},
            "count must be a whole number from 2 to 16777216, not 1000000000",
        ),
        ({"start": 1, "stop": 2, "cuont": 2}, "unknown key 'cuont'; did you mean 'count'"),
        ({"start": 0, "stop": 2, "count": 3, "scale": "log"}, "must be positive"),
        ({"start": 1, "stop": 1, "count": 3}, "must differ"),
        ({"start": "a", "stop": 1, "count": 3}, "start must be a number"),
        ({"start": 1, "stop": 2, "count": 3, "scale": "cubic"}, "scale = 'cubic': must be one of"),
        ({"low": 2, "high": 1}, "low must be smaller"),
        ({"low": 0, "high": 1, "scale": "log"}, "low must be positive"),
        ({"low": 0, "high": math.inf}, "high must be a number"),
        ({"start": 1e-300, "stop": 1e300, "count": 3, "scale": "log"}, "are too far apart"),
        ({"start": -1e308, "stop": 1e308, "count": 3}, "start and stop are too far apart"),
        ({"low": 1e-300, "high": 1e300, "scale": "log"}, "low and high are too far apart"),
        ({"low": -1e308, "high": 1e308}, "low and high are too far apart"),
        ([], "at least one value"),
    ],
)
def test_wrong_ranges_say_what_is_allowed(value, message):
    with pytest.raises(ValueError, match=message):
        number(value)


@given(
    st.sampled_from(["random", "sobol"]),
    st.integers(1, 70),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_designs_stay_inside_and_grow_by_appending(kind, count, seed, log, whole):
    intervals = [Interval(2.0, 9.0, log, whole), Interval(0.0, 1.0, False, False)]
    points = fill(intervals, Design(kind, count, seed))
    assert len(points) == count
    assert all(2 <= a <= 9 and 0 <= b <= 1 for a, b in points)
    assert all(type(a) is (int if whole else float) for a, _ in points)
    assert fill(intervals, Design(kind, count + 13, seed))[:count] == points


def test_sobol_fills_evenly_and_whole_numbers_are_equally_likely():
    """64 points: each of 8 x 8 cells holds one; each of 4 whole numbers a quarter."""
    both = [Interval(0.0, 1.0, False, False)] * 2
    for seed in range(3):
        x = np.asarray(fill(both, Design("sobol", 64, seed)))
        # Shifted modulo 1, cells are those of the shifted grid.
        shift = np.random.default_rng(seed).random(2)
        cell = np.floor(((x - shift) % 1.0) * 8 + 1e-9).astype(int) % 8
        assert len({tuple(c) for c in cell}) == 64
    values = [v for (v,) in fill([Interval(1.0, 4.0, False, True)], Design("sobol", 64, 0))]
    assert [values.count(v) for v in (1, 2, 3, 4)] == [16] * 4


# -- whole specifications ------------------------------------------------------------------------


def test_every_parameter_can_be_an_axis(load):
    """A list for each kind of parameter, with its column."""
    sweep = load(
        "data.kind=['isotropic', 'gaussian_mixture']",
        "data.alpha=[0.1, 0.2]",
        "model.kind=['two_layer_relu', 'linear']",
        "evaluate.kink_tol=[[1e-3], [1e-2, 1e-4]]",
        "train.loss=['logistic', 'exponential']",
    )
    every = cells(sweep)
    # Isotropic data have no alpha: its two values give the same trials, which are run once.
    families = list(families_of(sweep))
    names = [content for f in families for content in f.contents(sweep.directory)]
    assert len(every) == 2 * 2 * 2 * 2 * 2
    assert len(families) == 3 * 2 * 2 * 2, "a family a seed, data, model and loss"
    assert len(set(names)) == 3 * 2 * 2 * 2
    assert ("evaluate", "kink_tol") in sweep.swept


def test_zipped_axes_advance_together(load):
    sweep = load("data.m=[4, 5, 6]", "model.n=[8, 9, 10]", "data.d=[50, 60]",
                 "sweep.zip=['m', 'model.n']")  # fmt: skip
    got = sorted((c.data.m, c.model.n, c.data.d) for c in cells(sweep))
    assert got == sorted((m, m + 4, d) for m in (4, 5, 6) for d in (50, 60))


def test_zipped_lists_may_repeat_values_but_no_pair(load):
    sweep = load("data.m=[4, 4, 5]", "model.n=[8, 9, 8]", "sweep.zip=['m', 'n']")
    assert [(c.data.m, c.model.n) for c in cells(sweep)] == [(4, 8), (4, 9), (5, 8)]
    with pytest.raises(SpecError, match=r"the value \[4, 8\] is given twice"):
        load("data.m=[4, 4]", "model.n=[8, 8]", "sweep.zip=['m', 'n']")


def test_whole_numbers_may_be_written_as_floats(load):
    """1e6 is one in TOML. The trial is the same, whatever was read before."""
    whole, written = load("data.d=1000"), load("data.d=1e3")
    assert cells(whole)[0].data == cells(written)[0].data
    assert type(cells(written)[0].data.d) is int
    with pytest.raises(SpecError, match=r"model.n = True: must be a valid integer"):
        load("model.n=true")


def test_seeds_samples_and_steps_can_be_zipped_or_designed(load):
    sweep = load(
        "sweep.seeds=[5, 7]", "unlearn.step_fraction=[0.5, 1.5]",
        "sweep.zip=['seed', 'step_fraction']", "forget.index=[0, 1]",
    )  # fmt: skip
    got = {(f.seed, f.branches[0].pairs) for f in families_of(sweep)}
    assert got == {(5, (((0, 1), (0.5,)),)), (7, (((0, 1), (1.5,)),))}
    sweep = load(
        "unlearn.step_fraction={low = 0, high = 2}",
        "sweep.design={kind = 'random', count = 6}",
    )
    assert survey(sweep).trials == 6 * 2 * 4
    assert survey(sweep).trainings == 2, "all steps of a training hang below it"


def test_derived_values_follow_and_are_checked(load):
    sweep = load("data.m=[4, 6]", "model.n='2 * m'", "train.max_steps='10 * n + d'")
    assert [(c.data.m, c.model.n, c.train.max_steps) for c in cells(sweep)] == [
        (4, 8, 130),
        (6, 12, 170),
    ]
    sweep = load("data.m=[4, 6]", "model.n=['m', '3 * m', 5]")
    assert sorted((c.data.m, c.model.n) for c in cells(sweep)) == [
        (4, 4), (4, 5), (4, 12), (6, 5), (6, 6), (6, 18)
    ]  # fmt: skip
    sweep = load("unlearn.step_fraction='1 / m'", "data.m=[4, 8]", "forget.index='m - 1'")
    assert [(c.forget_indices, c.step_fractions) for c in cells(sweep)] == [
        ((3,), (0.25,)),
        ((7,), (0.125,)),
    ]
    sweep = load("train.step_size='tau_budget * 100'")
    assert cells(sweep)[0].train.step_size == pytest.approx(0.1), "a default counts too"


def test_filters_leave_out_combinations(load):
    sweep = load("data.m=[4, 30, 60]", "data.d=[50, 100]", "sweep.filter=['d >= 2 * m', 'm != 4']")
    assert [(c.data.m, c.data.d) for c in cells(sweep)] == [(30, 100)]
    sweep = load("unlearn.step_fraction=[0.5, 1.0, 2.0]", "data.m=[4, 5]",
                 "sweep.filter='step_fraction <= 1 or m == 4'")  # fmt: skip
    assert survey(sweep).trials == 2 * (4 * 3 + 5 * 2)
    assert survey(sweep).trainings == 4
    sweep = load("data.kind=['isotropic', 'gaussian_mixture']", "data.alpha=0.1",
                 "sweep.filter=\"data.kind == 'isotropic' or alpha > 0.05\"")  # fmt: skip
    assert len(cells(sweep)) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.n='2 * mm'"], r"model.n: there is no parameter 'mm' here; did you mean 'm'\?"),
        (["model.n='kind + 1'"], "'kind' may be any of data.kind, model.kind: write which"),
        (["model.n='m.__class__'"], "there is no parameter 'm.__class__' here"),
        (["model.n='m / 3'"], "gives 1.33333.*it must be whole: use round"),
        (["model.n='1 / (m - 4)'"], "model.n: '1 / .m - 4.': division by zero"),
        (["model.n='-m'"], "model.n = -4: must be greater"),
        (["model.n='m'", "data.m='n'"], "data.m: depends on itself"),
        (["model.n='n'"], "model.n: depends on itself"),
        (["model.n='m > 1'"], "gives True, which is no finite number"),
        (["model.n='target_epsilon'"], "train.target_epsilon has no value"),
        (["sweep.filter='m > 99'"], "sweep.filter: leaves no trial"),
        (["sweep.filter='m + 1'"], "must be a comparison"),
        (["sweep.filter='target_epsilon > 1'"], "target_epsilon has no value in some"),
        (["sweep.filter=3"], "sweep.filter = 3: must be text"),
        (["sweep.filter='forget_index > 1'"], 'must be listed, not "each"'),
        (["sweep.zip=['m', 'n']"], "data.m is not an axis"),
        (["data.m=[4, 5]", "model.n=[8, 9, 10]", "sweep.zip=['m', 'n']"],
         "must have as many values: data.m 2, model.n 3"),
        (["data.m=[4, 5]", "sweep.zip=['m', 'data.m']"], "data.m is named twice"),
        (["sweep.zip=['m']"], "must be a list of two or more"),
        (["data.d={low = 10, high = 20}"], r"data.d: an interval needs a design"),
        (["evaluate.kink_tol=[0.0, [1.0]]"], r"kink_tol = \[1.0\]: must be a valid number"),
        (["data.m=[{a = 1}]"], "a list is of values; a range or interval stands alone"),
        (["evaluate.kink_tol=[[0.1], 0.3]"], "kink_tol = 0.3: must be a valid list"),
        (["data.kind=isotropc"], "data.kind: 'isotropc'; did you mean 'isotropic'"),
        (["forget.rule=randm"], "forget.rule: 'randm'; did you mean 'random'"),
        (["unlearn.method=newtn"], "unlearn.method: 'newtn'; did you mean 'newton'"),
        (["train.loss=logistics"], "train.loss = 'logistics': did you mean 'logistic'"),
        (["train.end=limits"], "train.end = 'limits': did you mean 'limit'"),
        (["compute.dtype=float46"], "compute.dtype = 'float46': did you mean 'float64'"),
        (["data.d={low = 10, high = 20}", "sweep.design={kind = 'sobel', count = 4}"],
         "did you mean 'sobol'"),
        (["data.d={low = 10, high = 20, scale = 'lin'}"], "did you mean 'linear'"),
        (["model.n='round(m, -99999999999)'"], "cannot round to -99999999999 digits"),
        (["data.m=[[4], [4]]"], r"data.m: the value \[4\] is given twice"),
        (
            [
                "data.m={start = 2, stop = 100000, count = 20000}",
                "data.d={start = 10, stop = 100000, count = 20000}",
            ],
            "have 400000000 combinations; at most 100000000",
        ),
        (["sweep.design={kind = 'sobol', count = 4}"], "fills intervals.*there are none"),
        (["data.d={low = 10, high = 20}", "sweep.design={kind = 'grid', count = 4}"],
         'kind = "random" or "sobol"'),
        (["data.d={low = 10, high = 20}", "sweep.design={kind = 'sobol', size = 4}"],
         "sweep.design.size: unknown key"),
        (["data.d={low = 10.5, high = 20}", "sweep.design={kind = 'sobol', count = 4}"],
         "must be whole numbers"),
        (["train.loss={start = 1, stop = 2, count = 2}"], "is not a number"),
        (["store.weights='yes'"], "store.weights = 'yes': must be true or false"),
        (["store.wieghts=true"], "unknown key; did you mean 'weights'"),
        (["datad=3"], "--set 'datad=3': must be SECTION.KEY=VALUE"),
        (["data.d"], "--set 'data.d': must be SECTION.KEY=VALUE"),
        (["data.dd=3"], "data.dd: unknown key"),
        (["data.d=3\ndata.m=5"], "must be SECTION.KEY=VALUE"),
        (["data.d=10000000000000000000"], "data.d = 10000000000000000000: whole numbers must"),
        (["sweep.seeds=100000000"], "must be a count .1 to 10000000."),
        (["sweep.filter='m and d'"], "4 is neither true nor false: write a comparison"),
        (["model.n=\"'%9d' % m\""], "text has no remainder"),
        (["data.m=[4, 4.0]"], "the value 4.0 is given twice"),
        (["unlearn.step_fraction=[1, 1.0]"], "the value 1.0 is given twice"),
    ],
)  # fmt: skip
def test_wrong_specifications_are_one_clear_line(load, overrides, message):
    with pytest.raises(SpecError, match=message) as caught:
        load(*overrides)
    assert "\n" not in str(caught.value)


def test_names_and_marks_that_editors_give_files(tmp_path):
    """A byte-order mark is no part of the question; the run's name is the file's, spelt anew."""
    path = tmp_path / "my spec.v2.toml"
    path.write_text("\ufeff" + BASE, encoding="utf-8")
    sweep = load_spec(path)
    assert sweep.name == "my-spec-v2"
    assert sweep.question == question_of(path) == "Which?"


def test_overrides_keep_the_rest_of_the_text(load):
    sweep = load("data.d=2000", "train.loss=exponential", "unlearn.step_fraction=[0, 1]")
    assert sweep.text.startswith("# Which?\n[sweep]\nseeds = 2\n")
    content = tomllib.loads(sweep.text)
    assert content["data"] == {"kind": "isotropic", "m": 4, "d": 2000}
    assert content["train"] == {"max_steps": 100, "loss": "exponential"}
    assert content["unlearn"] == {"step_fraction": [0, 1]}
    (cell,) = cells(sweep)
    assert cell.step_fractions == (0.0, 1.0)


def test_reordering_axes_and_adding_values_changes_no_trial(load):
    def names(sweep):
        return {
            (content, family.seed)
            for family in families_of(sweep)
            for content in family.contents(sweep.directory)
        }

    few = load("data.m=[4, 5]", "model.n=[8, 9]")
    many = load("model.n=[9, 10, 8]", "data.m=[6, 5, 4]", "sweep.seeds=3")
    assert names(few) < names(many)
    derived = load("data.m=[4, 5]", "model.n=['2 * m', 9]")
    assert len(names(few) & names(derived)) == 2 * 3, "4 with 8 and 9, 5 with 9"


BEYOND = "1" + "0" * 400


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"data.d={BEYOND}", "data.d = 10000.*: whole numbers"),
        (
            f"unlearn.step_fraction=[1.0, {BEYOND}]",
            "unlearn.step_fraction = 10000.*: whole numbers",
        ),
        (
            f"data.d={{start=1, stop={BEYOND}, count=3}}",
            "data.d.stop = 10000.*: whole numbers",
        ),
        (f"data.d={{low=1, high={BEYOND}}}", "data.d.high = 10000.*: whole numbers"),
        (f"sweep.seeds=[{BEYOND}]", "sweep.seeds = 10000.*: whole numbers"),
        ("data.d=" + "9" * 5000, "data.d"),
        ('data.d="round(1e308)"', "data.d: 'round.1e308.': a whole number is too large"),
    ],
)
def test_numbers_beyond_64_bits_are_refused(load, override, message):
    with pytest.raises(SpecError, match=message) as caught:
        load(override)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_number_of_5000_digits_is_no_toml(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(BASE.replace("d = 50", "d = " + "9" * 5000))
    with pytest.raises(SpecError, match="not valid TOML"):
        load_spec(path)


def test_a_parameter_of_another_kind_has_no_value(load):
    """Linear models have no n, though the specification gives one for the others: a filter and a
    derived value that name it say so, once.
    """
    both = "model.kind=['linear', 'two_layer_relu']"
    with pytest.raises(SpecError, match=r"model.n has no value in some of the trials") as caught:
        load(both, 'data.d="4 * n"')
    assert ": data.d: model.n has no value" in str(caught.value)
    with pytest.raises(SpecError, match=r"model.n has no value in some of the trials") as caught:
        load(both, 'sweep.filter="n >= 8"')
    assert str(caught.value).count("has no value") == 1
    # What need not be looked up need not be there.
    sweep = load(both, """sweep.filter="model.kind == 'linear' or n >= 8\"""")
    assert len(cells(sweep)) == 2
    with pytest.raises(SpecError, match=r"train.target_epsilon has no value"):
        load('sweep.filter="target_epsilon >= 8"')


def test_filters_come_before_values_are_looked_at(load):
    """n = m - 10 is no number of neurons where m is 4: those are filtered out. A wrong value is
    still told as such where a filter cannot be evaluated for it.
    """
    sweep = load("data.m=[4, 20]", 'model.n="m - 10"', 'sweep.filter="m > 10"')
    assert [(c.data.m, c.model.n) for c in cells(sweep)] == [(20, 10)]
    with pytest.raises(SpecError, match=r"data.m = .5,.: must be a valid integer"):
        load("data.m=[4, [5]]", 'sweep.filter="m > 3"')


def test_filtered_seeds_are_left_out_family_by_family(load):
    sweep = load("sweep.seeds=5", 'sweep.filter="seed != 3"', "unlearn.step_fraction=[0.5, 1.0]")
    families = list(families_of(sweep))
    assert [family.seed for family in families] == [0, 1, 2, 4]
    assert {family.trials for family in families} == {4 * 2}
    every = load("sweep.seeds=2", 'sweep.filter="seed + forget_index != 1"', "forget.index=[0, 1]")
    got = {family.seed: family.branches[0].pairs for family in families_of(every)}
    assert got == {0: (((0,), (1.0,)),), 1: (((1,), (1.0,)),)}


def test_the_forgotten_index_may_be_derived(load):
    assert {c.forget_indices for c in cells(load('forget.index="seed"'))} == {(0,), (1,)}


def test_a_file_is_what_it_holds_when_a_specification_is_read(tmp_path):
    """Two specifications in one process, the file changed in between; and during a run."""
    path, file = tmp_path / "spec.toml", tmp_path / "mine.npz"
    given = 'kind = "isotropic"\nm = 4\nd = 50'
    path.write_text(BASE.replace(given, 'kind = "file"\npath = "mine.npz"'))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6)), np.array([1.0, -1, 1, -1])
    np.savez(file, x=x, y=y)
    first = next(families_of(load_spec(path)))
    before = first.contents(tmp_path)
    np.savez(file, x=2 * x, y=y)
    _file.cache_clear()  # as when many other files were read in between
    with pytest.raises(SpecError, match=r"mine.npz: has changed since the specification was read"):
        build_problems([(first.data, first.model, 0)], Size(4, 8, 4, 0), tmp_path)
    assert next(families_of(load_spec(path))).contents(tmp_path) != before


def test_digits_of_several_sizes_share_a_program(load, tmp_path):
    path = tmp_path / "digits.toml"
    path.write_text(BASE.replace('kind = "isotropic"\nm = 4\nd = 50', 'kind = "digits"'))
    sizes = "data.m={start = 5, stop = 50, count = 10}"
    found = survey(load_spec(path, [sizes, "data.n_test=200"]))
    assert (found.trainings, len(found.programs)) == (20, 1)
    with pytest.raises(SpecError, match=r"m . n_test = 400: digits .* have 357 samples"):
        load_spec(path, ["data.m=40", "data.n_test=360"])


def test_narrow_and_wide_networks_built_together_are_those_built_alone(load, tmp_path):
    """Coordinates beyond the span are led by the initial weights of the narrow ones, 3 of each
    neuron, and by the fresh samples of the wide ones.
    """
    families = list(families_of(load("model.n=[2, 20, 3]", "data.n_test=10", "sweep.seeds=1")))
    wanted = [(family.data, family.model, family.seed) for family in families]
    sizes = [size_of(data, model, tmp_path) for data, model, _ in wanted]
    assert [(size.neurons, size.beyond) for size in sizes] == [(2, 6), (20, 10), (3, 9)]
    together = build_problems(wanted, Size(4, 20, 4, 10), tmp_path)
    for lane, (each, size) in enumerate(zip(wanted, sizes, strict=True)):
        alone, n = build_problems([each], size, tmp_path), size.neurons
        for name in ("x", "y", "x_test", "y_test"):
            np.testing.assert_array_equal(getattr(together, name)[lane], getattr(alone, name)[0])
        found = [problem.initial_weights for problem in (together, alone)]
        np.testing.assert_allclose(found[0][lane, :, :n], found[1][0], rtol=1e-13, atol=1e-16)
        found = [problem.test_offset for problem in (together, alone)]
        np.testing.assert_allclose(found[0][lane, :, :n], found[1][0], rtol=1e-12, atol=1e-16)
    labels, offsets = together.y_test, together.test_offset[:, 0, 0]
    np.testing.assert_array_equal(labels[0], labels[2])
    assert np.abs(np.corrcoef(offsets)[0, 2]) < 0.9, (
        "other weights see other samples beyond the span"
    )
