"""LangChain's own standard tests for its OpenAI client pass against the gateway, over every upstream dialect.

They want other versions of packages than ours, so they have an environment of their own, made once and kept;
``LLMOPS_LANGCHAIN_PYTHON`` names the interpreter of another.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SUITE = Path(__file__).with_name("langchain_suite.py")


PACKAGES = ("langchain-openai>=1.7,<2", "langchain-tests>=1.1.9,<2", "pytest-asyncio>=1.3,<2")


@pytest.fixture(scope="module")
def python(model_cache):
    if named := os.environ.get("LLMOPS_LANGCHAIN_PYTHON"):
        return named
    home = model_cache / "langchain"
    found, stamp = home / "bin" / "python", home / "installed"
    if not stamp.is_file() or stamp.read_text() != " ".join(PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        done = subprocess.run(
            [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        stamp.write_text(" ".join(PACKAGES))
    return found


def test_the_standard_tests_pass(matrix_site, python, tmp_path):
    options = (
        "asyncio_mode=auto",
        "asyncio_default_test_loop_scope=session",
        "asyncio_default_fixture_loop_scope=session",
    )
    argv = [python, "-m", "pytest", "-q", "-rfE", "--rootdir", str(tmp_path), "-p", "no:cacheprovider", "--noconftest",
            *(part for option in options for part in ("-o", option)), "-c", os.devnull, str(SUITE)]  # fmt: skip
    env = {**os.environ, "LLMOPS_TEST_URL": matrix_site[0].url, "LLMOPS_TEST_KEY": "sk-client-0123456789"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 6 * 30, done.stdout[-500:]
