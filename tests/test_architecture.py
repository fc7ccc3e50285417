"""The import rows: a module imports only from rows above its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "magic_pyramid"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

ROWS = (
    ("errors",),
    ("activations", "config", "native", "saved_tokenizer", "spans"),
    ("packing", "linear", "tokenization", "data", "backbones", "metrics", "exit_thresholds", "folder_info"),
    ("layers", "pruning", "exiting", "cost", "planning", "labelled_rows"),
    ("presets", "model"),
    ("checkpoint", "training", "engine"),
    ("certify", "settings"),
    ("evaluation", "report", "demo", "hub", "sweep", "export"),
    ("predictions", "calibration"),
    ("tracing", "prediction_stream", "predictor"),
    ("classifier",),
    ("fitting", "drift", "question_answering"),
    ("bench", "tuning", "reproduce"),
    ("__init__", "cli"),
    ("__main__",),
)
ROW_OF = {component: row for row, components in enumerate(ROWS) for component in components}

MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def component_of(module: str) -> str:
    """The name in ROWS that a file belongs to: its top folder, or its own name."""
    return Path(module).parts[0].removesuffix(".py")


def imported_components(source: str) -> Iterator[str]:
    """Components of this package that a source text imports, wherever the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [f"{PACKAGE}.(relative import)"]
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names = [f"{PACKAGE}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            root, _, rest = name.partition(".")
            if root == PACKAGE:
                component = rest.partition(".")[0]
                yield component if component in ROW_OF or "(" in component else "__init__"


def breaches(module: str, source: str) -> list[str]:
    """What a module imports although it may not, in words."""
    own = component_of(module)
    if own not in ROW_OF:
        return [f"{module}: {own!r} has no row; give it one in ROWS and in docs/architecture.md"]
    found = []
    for imported in sorted(set(imported_components(source)) - {own}):
        if imported not in ROW_OF:
            found.append(f"{module} (row {ROW_OF[own]}) uses a {imported}; write it in full")
        elif ROW_OF[imported] >= ROW_OF[own]:
            found.append(
                f"{module} (row {ROW_OF[own]}) imports {imported} (row {ROW_OF[imported]}); "
                "only rows above its own are allowed"
            )
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_rows_above_its_own(module):
    found = breaches(module, (SOURCE / module).read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("layers/block.py", "from magic_pyramid.layers.attention import Attention", None),
        ("layers/block.py", "from magic_pyramid.packing import PackedBatch", None),
        ("layers/block.py", "import torch", None),
        ("layers/block.py", "from magic_pyramid.pruning import threshold", "imports pruning"),
        ("config.py", "def f():\n    from magic_pyramid import model", "imports model"),
        ("config.py", "import magic_pyramid.classifier as c", "imports classifier"),
        ("engine/plan.py", "from magic_pyramid import __version__", "imports __init__"),
        ("model.py", "from .packing import pack", "relative import"),
        ("novelty.py", "", "has no row"),
    ],
    ids=[
        "own folder",
        "above",
        "foreign",
        "sibling",
        "inside a function",
        "below",
        "root",
        "relative",
        "unknown",
    ],
)
def test_a_breach_is_found_and_named(module, source, expected):
    found = breaches(module, source)
    if expected is None:
        assert not found
    else:
        assert len(found) == 1
        assert module in found[0]
        assert expected in found[0]
