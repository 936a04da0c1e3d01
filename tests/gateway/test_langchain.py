"""LangChain's own standard tests for its OpenAI client pass against the gateway, over every upstream dialect.

They need an environment with ``langchain-openai``, ``langchain-tests`` and ``pytest-asyncio``, which want other versions
of packages than ours: its interpreter is named by ``LLMOPS_LANGCHAIN_PYTHON``.
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


def test_the_standard_tests_pass(matrix_site, tmp_path):
    python = os.environ.get("LLMOPS_LANGCHAIN_PYTHON", sys.executable)
    wanted = "import langchain_openai, langchain_tests, pytest_asyncio"
    if subprocess.run([python, "-c", wanted], capture_output=True, check=False).returncode:
        pytest.skip("needs langchain-openai, langchain-tests and pytest-asyncio; set LLMOPS_LANGCHAIN_PYTHON")
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
