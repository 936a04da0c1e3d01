"""One gateway before a fake of each provider, for all tests of the SDK matrix."""

from __future__ import annotations

from contextlib import ExitStack

import anthropic
import openai
import pytest
from gateway_fakes import fake, free_port, gateway
from gateway_providers import DIALECTS, HANDLERS, UPSTREAM_KEYS

KEYS = {**UPSTREAM_KEYS, "K_CLIENT": "sk-client-0123456789"}


def limited_routes() -> str:
    """A target of its own for each test of 429: the breaker of one that said Retry-After stays open for the next test."""
    names = [f"{d}-{c}{s}-fault-429" for d in [*DIALECTS, "triton"] for c in "oarect" for s in (0, 1)]
    return "\n".join(f"  - {{match: {n}, targets: [{{provider: {n.split('-')[0]}, model: {n}}}]}}" for n in names)


@pytest.fixture(scope="session")
def matrix_site(tmp_path_factory):
    with ExitStack() as stack:
        fakes = {name: stack.enter_context(fake(handler)) for name, handler in HANDLERS.items()}
        metrics = free_port()
        config = f"""
listen: {{metrics_port: {metrics}}}
keys: [{{name: client, env: K_CLIENT}}]
providers:
  openai: {{base_url: "{fakes["openai"].url}/v1", key_env: K_OPENAI, prices_as: openai, timeouts: {{first_byte_s: 0.4}}}}
  own: {{base_url: "{fakes["openai"].url}/v1", stream_usage: false}}
  anthropic: {{dialect: anthropic, base_url: "{fakes["anthropic"].url}", key_env: K_ANTHROPIC, timeouts: {{first_byte_s: 0.4}}}}
  gemini: {{dialect: gemini, base_url: "{fakes["gemini"].url}/v1beta", key_env: K_GEMINI, timeouts: {{first_byte_s: 0.4}}}}
  triton: {{dialect: triton, base_url: "{fakes["triton"].url}", timeouts: {{first_byte_s: 0.4}}}}
retry: {{attempts: 1}}
breaker: {{failures: 1000, min_requests: 100000}}
routes:
  - {{match: openai-model, targets: [{{provider: openai, model: gpt-4o}}]}}
  - {{match: anthropic-model, targets: [{{provider: anthropic, model: claude-sonnet-4-5}}]}}
  - {{match: gemini-model, targets: [{{provider: gemini, model: gemini-2.5-pro}}]}}
  - {{match: gemini-3-model, targets: [{{provider: gemini, model: gemini-3-pro}}]}}
  - {{match: triton-model, targets: [{{provider: triton, model: ensemble}}]}}
  - {{match: own-model, targets: [{{provider: own, model: some-llama}}]}}
  - {{match: dropping, untranslatable: drop, targets: [{{provider: anthropic, model: claude-sonnet-4-5}}]}}
  - {{match: elsewhere, targets: [{{provider: anthropic, model: claude-sonnet-4-5}}, {{provider: openai, model: gpt-4o}}]}}
  - {{match: langchain-openai, targets: [{{provider: openai, model: gpt-4o}}]}}
  - {{match: langchain-anthropic, targets: [{{provider: anthropic, model: claude-sonnet-4-5}}]}}
  - {{match: langchain-gemini, untranslatable: drop, targets: [{{provider: gemini, model: gemini-2.5-pro}}]}}
{limited_routes()}
  - {{match: "openai-*", targets: [{{provider: openai}}]}}
  - {{match: "anthropic-*", targets: [{{provider: anthropic}}]}}
  - {{match: "gemini-*", targets: [{{provider: gemini}}]}}
  - {{match: "triton-*", targets: [{{provider: triton}}]}}
"""
        running = stack.enter_context(gateway(tmp_path_factory.mktemp("matrix"), config, env=KEYS))
        running.metrics_url = f"http://127.0.0.1:{metrics}"
        yield running, fakes


@pytest.fixture(scope="session")
def oai(matrix_site):
    with openai.OpenAI(
        base_url=matrix_site[0].url + "/v1", api_key=KEYS["K_CLIENT"], max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.fixture(scope="session")
def ant(matrix_site):
    with anthropic.Anthropic(
        base_url=matrix_site[0].url, api_key=KEYS["K_CLIENT"], max_retries=0, timeout=10
    ) as client:
        yield client
