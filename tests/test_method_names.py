"""Methods stay apart: no method's code knows another, and presets are rows that nothing branches on."""

import ast
import re
from pathlib import Path

import pytest

from magic_pyramid.presets import PRESETS

SOURCE = Path(__file__).parents[1] / "src" / "magic_pyramid"
MODULES = sorted(
    path.relative_to(SOURCE).as_posix()
    for folder in ("pruning", "exiting", "training")
    for path in (SOURCE / folder).glob("*.py")
)
PAPERS = re.compile(
    r"\b(LTP|Magic Pyramid|FastBERT|ToP|PoWER-BERT|SpAtten|DeeBERT|PABEE|DistilBERT|TinyBERT)\b"
)
OWN = {
    "pruning/threshold.py": {"LTP", "Magic Pyramid"},
    "pruning/rank_bins.py": {"ToP"},
    "pruning/ranking.py": {"ToP"},
    "pruning/rank_counts.py": {"PoWER-BERT"},
    "pruning/cascade.py": {"SpAtten"},
    "exiting/criteria.py": {"FastBERT", "Magic Pyramid"},
    "exiting/heads.py": {"FastBERT", "Magic Pyramid"},
    "exiting/losses.py": {"FastBERT", "Magic Pyramid"},
    "training/budget.py": {"ToP"},
    "training/stages.py": {"ToP", "PABEE"},
    "training/student.py": {"DistilBERT"},
}
"""Whose formulas a module is made of: the papers its words may name."""
ALSO_SETTINGS = {
    "exiting/heads.py": {"fastbert", "bert", "distilbert"},
    "training/sharing.py": {"fastbert"},
}
"""Names of presets that are values of a setting, too: a kind of exit head, a family of encoders."""


def papers_in(source: str) -> set[str]:
    """Papers that a module names, in whatever part of it."""
    return set(PAPERS.findall(source))


def presets_in(source: str) -> set[str]:
    """Presets that a module's code names in a string; docstrings are words."""
    tree = ast.parse(source)
    words = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in words]
    return {node.value for node in strings if isinstance(node.value, str)} & set(PRESETS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_names_no_other_method_than_its_own(module):
    foreign = papers_in((SOURCE / module).read_text(encoding="utf-8")) - OWN.get(module, set())
    assert not foreign, f"{module} names {sorted(foreign)}; say what happens, not who does it"


@pytest.mark.parametrize("module", [*MODULES, "model.py", "tracing.py", "evaluation.py"])
def test_nothing_branches_on_the_name_of_a_preset(module):
    found = presets_in((SOURCE / module).read_text(encoding="utf-8")) - ALSO_SETTINGS.get(module, set())
    assert not found, f"{module} mentions the presets {sorted(found)}"


@pytest.mark.parametrize(
    ("source", "papers", "presets"),
    [
        ('"""As LTP does."""', {"LTP"}, set()),
        ("x = 1  # PoWER-BERT counts", {"PoWER-BERT"}, set()),
        ('"""The top of the text."""', set(), set()),
        ('if preset == "spatten":\n    pass', set(), {"spatten"}),
    ],
)
def test_mentions_are_found(source, papers, presets):
    assert papers_in(source) == papers
    assert presets_in(source) == presets
