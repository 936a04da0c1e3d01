"""Bills, budgets and the ledger through the port: known wrong bills, a reload, a database that takes no rows."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import ExitStack, closing
from decimal import Decimal

import httpx
import pytest
from gateway_fakes import fake, gateway, openai_chunk, wait_until

KEY = {"UPK": "sk-up-0123456789"}
# What providers said they used, and what they billed; both published bills and complaints about gateways that differed.
ANTHROPIC = {
    "input_tokens": 3,
    "cache_creation_input_tokens": 12304,
    "cache_read_input_tokens": 0,
    "output_tokens": 550,
}
GEMINI = {"promptTokenCount": 300_000, "cachedContentTokenCount": 100_000, "candidatesTokenCount": 1000,
          "totalTokenCount": 301_000}  # fmt: skip
OPENAI = {"prompt_tokens": 10_000, "completion_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 8000}}
HOUR = {**ANTHROPIC, "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 12304}}
READS = {"input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 100_000, "output_tokens": 100}
BILLS = [
    ("claude-sonnet-4-5", ANTHROPIC, {}, "0.054399"),
    ("claude-sonnet-4-5", HOUR, {}, "0.082083"),
    ("claude-sonnet-4-5", READS, {}, "0.03153"),  # 7 times less than full input
    ("claude-sonnet-4-5", {**ANTHROPIC, "service_tier": "batch"}, {}, "0.0271995"),
    ("claude-sonnet-4-5", {**READS, "cache_read_input_tokens": 0, "output_tokens": 0}, {}, "0.00003"),
    ("gemini-2.5-pro", GEMINI, {}, "0.540"),
    ("gemini-2.5-pro", {**GEMINI, "promptTokenCount": 200_000}, {}, "0.1475"),
    ("gpt-4o", OPENAI, {}, "0.025"),
    ("gpt-5", OPENAI, {}, "0.0135"),
    ("gpt-5", OPENAI, {"service_tier": "flex"}, "0.00675"),
    ("gpt-5", OPENAI, {"service_tier": "priority"}, "0.027"),
]
CONFIG = """
money: {{directory: books, flush_s: 0.05}}
providers:
  openai: {{base_url: "{url}/v1", key_env: UPK, prices_as: openai, responses: true}}
  anthropic: {{dialect: anthropic, base_url: "{url}", key_env: UPK}}
  gemini: {{dialect: gemini, base_url: "{url}/v1beta", key_env: UPK}}
routes:
  - {{match: "gpt*", targets: [{{provider: openai}}]}}
  - {{match: "claude*", untranslatable: drop, targets: [{{provider: anthropic}}]}}
  - {{match: "gemini*", targets: [{{provider: gemini}}]}}
"""


def bill(server, body, answer):
    """Answers with the usage that the test has put into ``state``."""
    usage, more = server.state["usage"], server.state["more"]
    path = server.seen[-1].path
    if "/models/" in path:
        part = {"content": {"role": "model", "parts": [{"text": "x"}]}, "index": 0, "finishReason": "STOP"}
        whole = {"candidates": [part], "usageMetadata": usage, "modelVersion": "g", "responseId": "g"}
        if "stream" not in path:
            answer.whole(200, whole)
            return
        answer.stream_head()
        answer.event(whole)
    elif path.endswith("/messages"):
        message = {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None}
        if not body.get("stream"):
            blocks = [{"type": "text", "text": "x"}]
            answer.whole(200, {**message, "content": blocks, "stop_reason": "end_turn", "usage": usage})
            return
        answer.stream_head()
        first = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
        answer.event({"type": "message_start", "message": first}, "message_start")
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        answer.event(block, block["type"])
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}
        answer.event(delta, delta["type"])
        answer.event({"type": "content_block_stop", "index": 0}, "content_block_stop")
        end = {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": usage["output_tokens"]}}
        answer.event({"type": "message_delta", **end}, "message_delta")
        answer.event({"type": "message_stop"}, "message_stop")
    else:
        whole = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "usage": usage, **more}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
            answer.whole(200, {**whole, "choices": [choice]})
            return
        answer.stream_head()
        answer.event({**openai_chunk({"content": "x"}), **more})
        answer.event({**openai_chunk({}, "stop"), **more})
        answer.event({**openai_chunk({}), "choices": [], "usage": usage, **more})
        answer.event(b"[DONE]")
    answer.stream_end()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bills")
    with ExitStack() as stack:
        up = stack.enter_context(fake(bill))
        yield stack.enter_context(gateway(directory, CONFIG.format(url=up.url), env=KEY)), up, directory


def chat(url, model, path="/v1/chat/completions", **more):
    body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], **more}
    return httpx.post(f"{url}{path}", json=body, timeout=20)


def newest(directory):
    with closing(sqlite3.connect(directory / "books" / "ledger.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("select * from entries order by at")]


# Anthropic's callers have no service tiers of OpenAI's.
PATHS = ("/v1/chat/completions", "/v1/messages")
CASES = [(*bill, path) for bill in BILLS for path in PATHS if not (bill[2] and path == PATHS[1])]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "usage", "more", "usd", "path"), CASES)
def test_bills_that_others_got_wrong(site, model, usage, more, usd, path, stream):
    running, up, directory = site
    up.state.update(usage=usage, more=more)
    known = len(newest(directory)) if (directory / "books" / "ledger.sqlite").exists() else 0
    answer = chat(running.url, model, path, stream=stream)
    assert answer.status_code == 200
    if not stream:
        assert Decimal(answer.headers["x-llmops-cost-usd"]) == Decimal(usd)
    wait_until(lambda: len(newest(directory)) > known and newest(directory)[-1]["state"] == "settled", what="the row")
    row = newest(directory)[-1]
    assert Decimal(row["amount_pico"]) / 10**12 == Decimal(usd)
    assert row["estimated"] == 0
    assert row["price_source"].startswith("genai-prices")
    assert row["price_date"]


BUDGETS = """
money:
  directory: books
  flush_s: 0.02
  {more}
  budgets: [{budgets}]
providers: {{up: {{base_url: "{url}/v1", key_env: UPK, prices_as: openai}}}}
routes: [{{match: gpt-4o, targets: [{{provider: up}}]}}]
"""


def test_a_reload_takes_over_budgets_and_what_they_have_spent(tmp_path):
    with fake(bill) as up:
        up.state.update(usage=OPENAI, more={})

        def write(budgets):
            text = BUDGETS.format(url=up.url, budgets=budgets, more="")
            (tmp_path / "gateway.yaml").write_text(text)
            return text

        with gateway(tmp_path, write("{name: wide, usd: 100}"), env=KEY) as running:

            def reload(budgets):
                write(budgets)
                running.process.send_signal(signal.SIGHUP)

            def status():
                return chat(running.url, "gpt-4o").status_code

            assert [status() for _ in range(4)] == [200] * 4  # 0.1 $
            wait_until(lambda: len(newest(tmp_path)) == 4, what="the rows")
            reload("{name: wide, usd: 100}, {name: tight, usd: 0.11, period: day}")  # new, and nearly spent already
            wait_until(lambda: status() == 429, what="the new budget holds")
            answer = chat(running.url, "gpt-4o")
            assert "tight" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) > 0
            reload("{name: wide, usd: 100}, {name: tight, usd: 0.2, period: day}")  # raised: what was spent stays
            wait_until(lambda: status() == 200, what="the raised budget")
            wait_until(lambda: status() == 429, what="and its end")
            reload("{name: wide, usd: 'much'}")  # wrong: nothing changes
            wait_until(lambda: "was not reloaded" in running.log.read_text(), what="the wrong file is noticed")
            assert status() == 429
            reload("")
            wait_until(lambda: status() == 200, what="no budget")


@pytest.mark.slow
def test_a_database_that_takes_no_rows_ends_in_503_and_recovers(tmp_path):
    more = "spool_mib: 0.02\n  max_spool_mib: 0.05"
    with fake(bill) as up:
        up.state.update(usage=OPENAI, more={})
        text = BUDGETS.format(url=up.url, budgets="{name: wide, usd: 1000}", more=more)
        with gateway(tmp_path, text, env=KEY) as running:
            assert chat(running.url, "gpt-4o").status_code == 200
            with closing(sqlite3.connect(tmp_path / "books" / "ledger.sqlite", isolation_level=None)) as other:
                other.execute("begin exclusive")
                good, answer = 1, chat(running.url, "gpt-4o")
                while answer.status_code == 200 and good < 2000:
                    good, answer = good + 1, chat(running.url, "gpt-4o")
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "ledger_unavailable"
                assert "retry-after" in answer.headers
                assert "llm_ledger_failing" in running.metrics()
                other.execute("rollback")
            wait_until(lambda: chat(running.url, "gpt-4o").status_code == 200, 20, "the ledger works again")
            wait_until(lambda: sum(row["amount_pico"] == 25_000_000_000 for row in newest(tmp_path)) == good + 1,
                       20, "no row is lost")  # fmt: skip
