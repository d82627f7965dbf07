"""The shape of the package: who may import whom, and what every file must have."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

import gaunlearn
from gaunlearn.schema import COLUMNS

PACKAGE = Path(gaunlearn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A module may import modules of a higher number only; equal numbers form one package or are
# listed in order below.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"__init__"},
    {"stored", "runs"},
    {"report.summary", "report.figures", "report.page", "report.__init__"},
    {"report.answer"},
    {"report.methods", "report.axis", "report.plane", "report.plots"},
    {"report.parts", "report.medians"},
    {"report.style"},
    {"sweep.runner", "sweep.verify"},
    {"sweep.cluster", "sweep.processes"},
    {"sweep.remote", "sweep.connection"},
    {"sweep.worker"},
    {"sweep.adaptive", "sweep.provenance"},
    {"sweep.resume", "sweep.compact", "sweep.findings", "sweep.weights"},
    {"sweep.rows"},
    {"sweep.execute", "sweep.store", "sweep.__init__"},
    {"sweep.layout"},
    {"sweep.plan", "sweep.stages", "sweep.forgetting", "sweep.kernels"},
    {"sweep.problems", "sweep.spec"},
    {"sweep.machine"},
    {"sweep.shapes", "sweep.lanes", "sweep.lock"},
    {"sweep.rehearsal"},
    {"sweep.traced"},
    {"sweep.parts"},
    {"sweep.identity", "sweep.place", "sweep.host"},
    {"sweep.samples", "sweep.tally"},
    {"sweep.reader", "sweep.predicate"},
    {"sweep.grid"},
    {"sweep.axes", "sweep.sections"},
    {"sweep.expressions"},
    {"api"},
    {"certifying"},
    {"trial", "doctor", "reference"},
    {"unlearning.__init__"},
    {"unlearning.references"},
    {"unlearning.descent", "unlearning.solves"},
    {"unlearning.ascent"},
    {"unlearning.situation"},
    {"frontier", "fused", "generalisation"},
    {"ladder"},
    {"certificate", "metrics", "training"},
    {"deep"},
    {"kkt", "theory", "limit", "snapping"},
    {"cone", "interior", "pivoting"},
    {"data.real", "data.distributions", "data.reduction", "data.__init__"},
    {"data.numbers"},
    {"compiler"},
    {"coordinates"},
    {"given"},
    {"models", "losses"},
    {"types", "checks", "schema", "border", "sums", "branches"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
NUMERICAL = {name for names in LAYERS[LEVEL["trial"] :] for name in names} - {"doctor", "schema"}


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path):
    """(module, imported names) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_one_way(path):
    name = module_name(path)
    assert name in LEVEL, f"give {name} a place in LAYERS"
    for imported in imports(path):
        target = imported.removeprefix("gaunlearn.")
        if imported.startswith("gaunlearn.") and target in LEVEL:
            assert LEVEL[target] > LEVEL[name], f"{name} imports {target}"
    if name.startswith("report."):
        own = {i for i in imports(path) if i.startswith("gaunlearn") and i.count(".") == 2}
        allowed = ("sweep.store", "schema", "checks", "report.")
        allowed = tuple(f"gaunlearn.{name}" for name in allowed)
        assert all(i.startswith(allowed) for i in own)
        assert not any(i and i.split(".")[0] == "jax" for i in imports(path))
    if name in NUMERICAL:
        roots = {i.split(".")[0] for i in imports(path) if i}
        assert not roots & {"pandas", "pyarrow", "time", "datetime", "pathlib", "os"}, name


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_file_and_public_name_has_a_docstring_and_is_short(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a file says what lives in it"
    assert len(path.read_text().splitlines()) <= 600
    public = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        ),
        [],
    )
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name in public:
                assert ast.get_docstring(node), f"{node.name} has no docstring"
            else:
                assert path.name == "spec.py" or node.name.startswith("_"), (
                    f"{node.name} is neither private nor in __all__"
                )


BENCHMARKS = sorted((PACKAGE.parent / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmarks_use_what_there_is(path):
    """What they import, and what they take from a module or set in it, private or not."""
    tree, modules = ast.parse(path.read_text()), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gaunlearn"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("gaunlearn"):
                    name = alias.asname or alias.name.split(".")[0]
                    modules[name] = importlib.import_module(alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if isinstance(module, ModuleType):
                assert hasattr(module, node.attr), f"{node.value.id}.{node.attr}"


def test_users_files_are_data():
    for path in FILES:
        for imported in imports(path):
            assert imported not in {"pickle", "cloudpickle", "joblib"}
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "compile"}, path


def test_columns_are_described_once():
    names = [column.name for column in COLUMNS]
    assert len(names) == len(set(names))
    for column in COLUMNS:
        assert column.meaning, column.name
        assert column.range, column.name
