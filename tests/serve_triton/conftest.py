"""The real server's environment, and exports to serve."""

import pytest


@pytest.fixture(scope="session")
def triton_python():
    """The interpreter of the environment that ``llmops engines install triton`` makes."""
    from llmops.engines import environment

    found = environment("triton")
    if found.state != "ready":
        pytest.skip("the real Triton server: llmops engines install triton")
    return found.python
