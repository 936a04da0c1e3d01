"""The layers of the architecture: a module imports only from lower rows, and the verbs never import each other."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "llmops"

ROWS = {
    6: {"cli", "__main__", "docs"},
    5: {"pipeline", "config_report"},
    4: {"quantize", "export", "serve", "bench", "gateway", "deploy"},
    3: {"diagnosis"},
    2: {"planning"},
    1: {
        "checkpoint", "hardware", "http1", "engines", "report", "prices", "recipes", "settings", "process",
        "process_guard", "extras", "sites",
    },
    0: {"causes", "errors", "findings", "units", "progress", "masking", "__init__"},
}  # fmt: skip
ROW_OF = {part: row for row, parts in ROWS.items() for part in parts}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_shipped" not in path.parts)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            # Adapters are programs for other interpreters, which have no llmops: they import their neighbours only.
            relative = isinstance(node, ast.ImportFrom) and node.level
            assert not relative or (node.level == 1 and "adapters" in path.parts), f"{path}: relative import"
            continue
        for name in names:
            words = name.split(".")
            if words[0] == "llmops" and len(words) > 1:
                parts.add(words[1] if words[1] in ROW_OF else "__init__")
    return parts


def test_every_part_has_a_row():
    assert {part_of(path) for path in FILES} <= set(ROW_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = part_of(path)
    for other in imported_parts(path) - {mine}:
        if ROW_OF[mine] in (0, 1, 6) and ROW_OF[other] == ROW_OF[mine]:
            continue  # the lowest rows are single-purpose modules that may use each other; the next test forbids cycles
        assert ROW_OF[other] < ROW_OF[mine], f"{mine} (row {ROW_OF[mine]}) imports {other} (row {ROW_OF[other]})"


def test_no_cycles_between_parts():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        mine = part_of(path)
        graph.setdefault(mine, set()).update(imported_parts(path) - {mine, "__init__"})
    graph.pop("__init__", None)
    list(TopologicalSorter(graph).static_order())
