"""What mypyc asks of the modules that a build compiles; and that the compiled package is what runs where it should."""

import ast
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LISTED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["llmops"]["compiled"]


def trees(paths):
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def classes(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def bases(node):
    return {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}


COMPILED = trees(ROOT / name for name in LISTED)


@pytest.mark.parametrize("name", LISTED)
def test_a_compiled_module_keeps_to_what_mypyc_gets_right(name):
    for node in classes(COMPILED[name]):
        assert "Struct" not in bases(node), (
            f"{node.name}: msgspec reads annotations that a compiled class does not keep"
        )
        decorators = [ast.unparse(each) for each in node.decorator_list]
        assert not any("slots=True" in each for each in decorators), f"{node.name}: mypyc cannot replace a class"
        if bases(node) & {"Protocol", "ABC"}:
            continue
        for function in node.body:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and len(function.body) == 1:
                only_says = isinstance(function.body[0], ast.Expr) and isinstance(function.body[0].value, ast.Constant)
                nothing = function.returns is not None and ast.unparse(function.returns) == "None"
                assert nothing or not only_says, f"{node.name}.{function.name}: a body of a docstring ends the process"


def test_what_derives_from_a_compiled_class_is_compiled():
    own = {node.name for tree in COMPILED.values() for node in classes(tree) if not bases(node) & {"Protocol"}}
    others = [path for path in (ROOT / "llmops").rglob("*.py") if str(path.relative_to(ROOT)) not in COMPILED]
    derived = {
        f"{name}: {node.name}"
        for name, tree in trees(others).items()
        for node in classes(tree)
        if bases(node) & own and any(f"import {base}" in ast.unparse(tree) for base in bases(node) & own)
    }
    assert derived == set()


@pytest.mark.skipif(not os.environ.get("LLMOPS_COMPILED"), reason="only where the compiled package is under test")
def test_the_compiled_package_is_under_test():
    from llmops.gateway import fastlane, request
    from llmops.gateway.money import account
    from llmops.http1 import connection

    assert [Path(each.__file__).suffix for each in (fastlane, request, account, connection)] == [".so"] * 4
