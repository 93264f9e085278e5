"""Habits that keep the tree readable: names that say something, no print, no path in a document that is not there.

Run: pytest tests/architecture/test_habits.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("unimodel", "data_pipelines", "launch")
SOURCES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
EMPTY_NAMES = {"utils", "util", "common", "misc", "helpers", "helper", "base", "manager"}
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
IN_TREE = re.compile(
    r"(?<![\w/.])((?:unimodel|data_pipelines|launch|configs|tests|benchmarks|docs)/[\w./-]*\w/?|[A-Z]\w+\.md|Makefile|Dockerfile)"
)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_module_is_named_after_what_it_holds(source: Path) -> None:
    assert not EMPTY_NAMES & {part.removesuffix(".py") for part in source.parts}, f"{source}: say what is inside"


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_module_does_not_print(source: Path) -> None:
    """Output goes through `unimodel.observe`, which knows about ranks, logs and progress bars."""
    tree = ast.parse((ROOT / source).read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines, f"{source} prints in lines {lines}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_named_in_a_document_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(IN_TREE.findall(text)) | set(_drawn_tree(text))
    assert named, f"{document} names no path: has its form changed?"
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing, f"{document} names what is not in the tree: {missing}"


def _drawn_tree(text: str) -> list[str]:
    """Paths of the first ```text block: one name a line, its gloss after two spaces, children indented by two."""
    block = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    paths: list[str] = []
    parents: list[str] = []
    for line in block.group(1).splitlines() if block else []:
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        parents = [*parents[:depth], names[-1].rstrip("/")]
        paths += ["/".join([*parents[:depth], name]) for name in names]
    return paths
