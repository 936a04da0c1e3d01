"""Compiles the gateway's hot path when a wheel is built, with mypyc, where a C compiler is at hand.

The modules are those that ``tool.llmops.compiled`` of pyproject.toml lists: ordinary typed Python that runs as it is,
and in about two thirds of the time when compiled. An editable install stays interpreted, so that what is edited is what
runs. ``LLMOPS_COMPILE=0`` leaves the compiler out; ``LLMOPS_COMPILE=1`` makes a failure to compile end the build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Strictness is the type checker's business, in the checkout; a build has only the libraries that it asks for.
_COMPILE = """
import sys
from mypyc.build import mypycify
from setuptools import setup

flags = ["--ignore-missing-imports", "--allow-untyped-decorators", "--no-warn-unused-ignores"]
setup(
    name="llmops",
    packages=[],
    ext_modules=mypycify([*flags, *sys.argv[1:]], opt_level="2", group_name="llmops"),
    script_args=["--quiet", "build_ext", "--inplace"],
)
"""


class CompileHook(BuildHookInterface):  # type: ignore[type-arg]  # its config is none of ours
    """See the module."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the compiled modules to a wheel."""
        wish = os.environ.get("LLMOPS_COMPILE", "")
        if version == "editable" or wish == "0":
            return
        self._work = tempfile.mkdtemp(prefix="llmops-compile-")
        why = compile_tree(Path(self.root), Path(self._work))
        if why:
            shutil.rmtree(self._work, ignore_errors=True)
            if wish == "1":
                raise RuntimeError(f"the gateway's hot path was not compiled: {why}")
            self.app.display_warning(f"the gateway's hot path stays interpreted, which is right but slower: {why}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for built in Path(self._work).rglob("*.so"):
            relative = built.relative_to(self._work)
            if relative.parts[0] != "build":
                build_data["force_include"][str(built)] = str(relative)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up."""
        del version, build_data, artifact_path
        if hasattr(self, "_work"):
            shutil.rmtree(self._work, ignore_errors=True)


def compile_tree(root: Path, work: Path) -> str:
    """Compile the listed modules in a copy of the package; returns why not, or nothing."""
    modules = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["llmops"]["compiled"]
    shutil.copytree(root / "llmops", work / "llmops", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, *modules], cwd=work, capture_output=True, text=True, check=False
    )
    if not done.returncode:
        return ""
    said = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()]
    return said[0].strip()[:200] if said else f"the compiler ended with {done.returncode}"
