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


PACKAGE = trees((ROOT / "llmops").rglob("*.py"))


@pytest.mark.parametrize("name", LISTED)
def test_a_compiled_module_keeps_to_what_mypyc_gets_right(name):
    for node in classes(PACKAGE[name]):
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


def imported(tree):
    """The names that a module brings in from others of the package."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmops")
        for alias in node.names
    }


def derived_from_compiled(modules):
    own = {node.name for name in modules for node in classes(PACKAGE[name]) if not bases(node) & {"Protocol"}}
    return {
        f"{name}: {node.name}"
        for name, tree in PACKAGE.items()
        if name not in modules
        for node in classes(tree)
        if bases(node) & own & imported(tree)
    }


def test_what_derives_from_a_compiled_class_is_compiled():
    assert derived_from_compiled(LISTED) == set()
    short = [name for name in LISTED if not name.endswith("shared_limits.py")]
    assert derived_from_compiled(short) == {"llmops/gateway/state/shared_limits.py: SharedLimiter"}


def test_the_package_under_test_is_the_one_that_is_meant():
    from llmops.gateway import fastlane, request
    from llmops.gateway.money import account
    from llmops.http1 import connection

    kind = ".so" if os.environ.get("LLMOPS_COMPILED") else ".py"
    assert [Path(each.__file__).suffix for each in (fastlane, request, account, connection)] == [kind] * 4
