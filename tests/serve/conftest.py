"""Fixtures of the serving tests."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    """A random Llama of half a megabyte that llama.cpp serves within a second."""
    for module in ("gguf", "xllamacpp"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'llmops[cpu]'")
    out = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    script = Path(__file__).with_name("tiny_gguf.py")
    subprocess.run([sys.executable, str(script), str(out)], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def tiny_server(tiny_llama, tmp_path_factory):
    """The tiny Llama behind the transformers engine, with a key, for a whole module."""
    from serve_process import serving

    tmp = tmp_path_factory.mktemp("served")
    with serving(
        tmp, tiny_llama, "--engine", "transformers", "--name", "tiny", "--api-key-env", "TINY_KEY",
        "--max-num-seqs", "8", env={"TINY_KEY": "key-of-the-tests"},
    ) as served:  # fmt: skip
        yield served


@pytest.fixture
def client(tiny_server):
    """The official client."""
    openai = pytest.importorskip("openai")
    with openai.OpenAI(
        base_url=tiny_server.url + "/v1", api_key="key-of-the-tests", max_retries=0, timeout=60
    ) as client:
        yield client
