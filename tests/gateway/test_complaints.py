"""What users of other gateways complain about in public: each complaint, and the tests here that would fail with it.

The first tests below stand for complaints that no other module covers; the last one checks that every test named in the
index exists.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gateway_fakes import OPENAI_TEXT, fake, gateway, metric, openai_chunk, wait_until
from gateway_fakes import openai as openai_server
from packaging.requirements import Requirement

TESTS = Path(__file__).parents[1]
HELLO = [{"role": "user", "content": "hi"}]

# number: (the complaint, its sources, tests as "directory/module::test")
INDEX: dict[int, tuple[str, str, tuple[str, ...]]] = {
    1: ("memory grows until the process is killed; a failed flush of the ledger makes it grow for good",
        "BerriAI/litellm#12685 #27954 #38193",
        ("gateway/test_soak::test_memory_is_flat_over_many_requests",
         "gateway/test_complaints::test_a_full_disk_costs_log_lines_and_no_memory",
         "gateway_money/test_gateway_money_rules::test_a_database_that_fails_for_a_while_loses_nothing",
         "gateway_money/test_gateway_money_rules::test_at_the_bound_of_the_spool_requests_are_refused_before_they_cost")),
    2: ("every junk model name or path makes a metric series for ever", "BerriAI/litellm#39136 #35666 #19393",
        ("gateway/test_faults::test_junk_names_mint_no_series", "gateway/test_complaints::test_junk_paths_mint_no_series")),
    3: ("metrics differ from worker to worker", "BerriAI/litellm#10595",
        ("gateway/test_workers::test_workers_share_limits_and_counters_and_survive_a_kill",)),
    4: ("requests wait for each other in the gateway while the server behind it is idle", "BerriAI/litellm#13546 #21046",
        ("gateway/test_complaints::test_requests_at_once_are_at_once_upstream",
         "gateway/test_gateway_engines::test_many_at_once_reach_vllm_together")),
    5: ("a published benchmark that nobody can repeat", "BerriAI/litellm#14681",
        ("gateway/test_soak::test_the_published_comparison_runs",)),
    6: ("cache writes charged twice", "BerriAI/litellm#9812 #6575 #5443",
        ("gateway/test_prices::test_known_bills", "gateway/test_dialect_matrix::test_the_known_bills_in_every_dialect")),
    7: ("cache reads priced as full input when streaming", "BerriAI/litellm#11789 #11364",
        ("gateway/test_dialect_matrix::test_streamed_bills_are_the_same",)),
    8: ("batch prices and the tiers of long prompts missed", "BerriAI/litellm#38341 #11017 #40002",
        ("gateway/test_prices::test_known_bills",)),
    9: ("a caller that leaves in the middle of a stream pays nothing", "BerriAI/litellm#14457 #13245 #33736 #37558",
        ("gateway/test_faults::test_a_caller_that_leaves_stops_the_generation_and_is_accounted",)),
    10: ("an explicit zero is replaced by an estimate", "BerriAI/litellm#37992",
         ("gateway/test_complaints::test_an_explicit_zero_stays_zero",
          "gateway/test_prices::test_zero_usage_is_zero_and_not_unknown")),
    11: ("requests at once pass a spent budget; two replicas spend it twice", "BerriAI/litellm#34732 #33325 #40095 #26672",
         ("gateway/test_whole_way::test_parallel_requests_never_pass_a_hard_budget",
          "gateway_money/test_gateway_money_processes::test_200_parallel_in_4_workers_never_overspend_a_budget_for_50",
          "gateway_money/test_gateway_money_replicas::test_replicas_share_a_budget")),
    12: ("no fallback once a stream has begun; an error inside a 200 is not seen",
         "BerriAI/litellm#6957 #32237 #38610 OrcaRouter-Lite#115",
         ("gateway/test_resilience::test_an_error_before_the_first_content_falls_back",
          "gateway/test_dialect_matrix::test_openai_errors")),
    13: ("a stream is tried again although nobody allowed it", "BerriAI/litellm#19077",
         ("gateway/test_complaints::test_a_broken_stream_is_never_asked_for_again",
          "gateway/test_resilience::test_a_break_after_content_is_an_error_event_and_never_spliced")),
    14: ("429 without Retry-After; retries that do not wait", "BerriAI/litellm#27823 #4695 #6011",
         ("gateway/test_resilience::test_retry_after_is_waited_for",
          "gateway/test_resilience::test_limits_per_key_with_headers_in_both_dialects")),
    15: ("the provider's key in logs and errors", "BerriAI/litellm#8075 #6963 #15799 holmesgpt#2010",
         ("gateway/test_dialect_matrix::test_keys_travel_in_headers_only",
          "gateway/test_complaints::test_no_key_in_what_a_broken_provider_causes")),
    16: ("the caller's own key repeated in an error", "BerriAI/litellm#18731 #30670 #25203",
         ("gateway/test_resilience::test_a_wrong_key_is_401_and_is_not_repeated",
          "gateway/test_sdk_surfaces::test_a_wrong_key_is_an_authentication_error_on_every_surface")),
    17: ("a cache shared by tenants", "BerriAI/litellm#29955 #19575 wso2/api-platform#733",
         ("gateway/test_cache_batching::test_tenants_never_share",
          "gateway/test_redis_cache::test_gateways_share_answers_and_live_without_redis",
          "gateway_guard/test_gateway_semantic_cache::test_tenants_never_share")),
    18: ("a semantic cache that answers another question", "BerriAI/litellm#12234 #29086 #31610 zilliztech/GPTCache#694",
         ("gateway_guard/test_gateway_semantic_cache::test_near_identical_questions_with_different_answers_never_hit",)),
    19: ("the ledger grows and every budget check reads it", "BerriAI/litellm#35766 #16582 #21908",
         ("gateway_money/test_gateway_money_rules::test_rolling_up_changes_no_sum",
          "gateway_money/test_gateway_money_rules::test_counters_are_made_anew_from_the_ledger")),
    20: ("no keys or budgets without a database server; a wrong key is a 400", "BerriAI/litellm#4880 #30328 #20837",
         ("gateway/test_whole_way::test_virtual_keys_and_their_scopes",
          "gateway/test_sdk_surfaces::test_a_wrong_key_is_an_authentication_error_on_every_surface")),
    21: ("the encryption key cannot be changed, or changing it silently loses the keys",
         "BerriAI/litellm#12448 #17951 OrcaRouter-Lite#137",
         ("gateway_access/test_gateway_vault::test_a_rotation_killed_between_every_two_writes_loses_nothing",
          "gateway_access/test_gateway_vault::test_another_master_key_opens_nothing_and_says_which_would")),
    22: ("Gemini's thought signature lost in a tool loop", "BerriAI/litellm#16893 #25322 LangBot#1899",
         ("gateway/test_dialect_matrix::test_gemini_signature_survives_the_tool_loop",
          "gateway/test_dialect_matrix::test_anthropic_tools",
          "gateway/test_sdk_surfaces::test_a_responses_tool_loop_keeps_geminis_signature")),
    23: ("thinking blocks become text, cache_control is lost", "BerriAI/litellm#26916 #39815 #20998 any-llm#1110",
         ("gateway/test_dialect_matrix::test_thinking_blocks_come_and_go_with_their_signature",
          "gateway/test_dialect_matrix::test_cache_control_goes_through_from_openai",
          "gateway/test_dialect_matrix::test_native_anthropic_is_passed_unchanged")),
    24: ("parallel tool calls mixed up in Anthropic's streams", "Portkey-AI/gateway#1275",
         ("gateway/test_dialect_matrix::test_anthropic_tools", "gateway/test_dialect_matrix::test_openai_tools",
          "gateway/test_gateway_fuzz::test_calls_whose_pieces_are_mixed_arrive_whole")),
    25: ("streaming broken on a fresh installation", "Portkey-AI/gateway#1389 #1550",
         ("gateway/test_pass_through::test_stream_is_passed_on_and_priced", "gateway/test_dialect_matrix::test_openai_stream")),
    26: ("message_start without usage", "vercel/ai#17326",
         ("gateway/test_dialect_matrix::test_anthropic_message_start_has_real_usage",)),
    27: ("token limits counted only when a stream is over", "envoyproxy/ai-gateway#2394 #1866 #2460 #2248",
         ("gateway/test_complaints::test_token_limits_hold_while_a_stream_is_under_way",)),
    28: ("an error inside an Anthropic stream that the SDK cannot see", "mlflow#25897",
         ("gateway/test_resilience::test_a_break_after_content_in_the_anthropic_dialect",
          "gateway/test_sdk_surfaces::test_a_failure_inside_a_stream_is_raised_by_every_client")),
    29: ("a release that runs a stranger's code at start", "BerriAI/litellm#24518",
         ("gateway/test_complaints::test_nothing_runs_or_calls_out_by_being_installed",)),
}  # fmt: skip
CONFIG = """
keys:
  - {{name: tokens, env: TOKENS, limits: {{tokens_per_minute: 30}}}}
  - {{name: admin, env: ADMIN, admin: true}}
providers:
  up: {{base_url: "{url}/v1", key_env: UPK, prices_as: openai}}
  dead: {{dialect: gemini, base_url: "http://127.0.0.1:9/v1beta", key_env: UPK}}
retry: {{attempts: 3, base_ms: 1}}
access_log: /dev/full
routes:
  - {{match: gpt-4o, targets: [{{provider: up}}]}}
  - {{match: broken, targets: [{{provider: up}}]}}
  - {{match: dead, targets: [{{provider: dead, model: gemini-2.5-pro}}]}}
"""
ENV = {
    "TOKENS": "sk-tokens-0123456789",
    "ADMIN": "sk-admin-0123456789",
    "UPK": "AIzaSyProvider0123456789abcdefghijklmnop",
}


def upstream(server, body, answer):
    if "together" in str(body.get("messages")):
        with server.state["lock"]:
            server.state["now"] = server.state.get("now", 0) + 1
        server.state["go"].wait(20)
        openai_server(server, body, answer)
    elif "zero" in str(body.get("messages")):
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        answer.stream_head()
        answer.event(openai_chunk({"content": "free"}))
        answer.event(openai_chunk({}, "stop"))
        answer.event({**openai_chunk({}), "choices": [], "usage": usage})
        answer.event(b"[DONE]")
        answer.stream_end()
    elif body.get("model") == "broken":
        answer.stream_head()
        answer.event(openai_chunk({"content": "half of it"}))
        answer.connection.close()
    elif "long" in str(body.get("messages")):
        answer.stream_head()
        answer.event(openai_chunk({"content": "begun"}))
        server.state["go"].wait(20)
        answer.event(openai_chunk({}, "stop"))
        answer.event(b"[DONE]")
        answer.stream_end()
    else:
        openai_server(server, body, answer)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with fake(upstream) as up:
        up.state |= {"go": threading.Event(), "lock": threading.Lock()}
        with gateway(tmp_path_factory.mktemp("complaints"), CONFIG.format(url=up.url), env=ENV) as running:
            yield running, up


def request(content="hi", model="gpt-4o", **more):
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def headers(key="ADMIN"):
    return {"authorization": f"Bearer {ENV[key]}"}


def ask(site, content="hi", model="gpt-4o", key="ADMIN", **more):
    url = f"{site[0].url}/v1/chat/completions"
    # Without TLS there is nothing to verify, and loading the authorities costs more than the request.
    return httpx.post(url, json=request(content, model, **more), headers=headers(key), timeout=30, verify=False)


def metrics(site):
    return httpx.get(f"{site[0].url}/metrics", headers=headers()).text


def test_junk_paths_mint_no_series(site):
    before = len(metrics(site).splitlines())
    with httpx.Client(base_url=site[0].url, headers=headers()) as client:
        for number in range(50):
            assert client.post(f"/v1/junk-{number}", json={}).status_code in (404, 405)
            assert client.get(f"/{number}").status_code == 404
    assert len(metrics(site).splitlines()) <= before + 1


def test_requests_at_once_are_at_once_upstream(site):
    """Sixty requests, none of which is answered before all of them are there."""
    _, up = site
    up.state["go"].clear()
    with ThreadPoolExecutor(60) as pool:
        futures = [pool.submit(ask, site, "together") for _ in range(60)]
        wait_until(lambda: up.state.get("now", 0) == 60, 20, "all sixty are at the upstream together")
        up.state["go"].set()
        assert {future.result().status_code for future in futures} == {200}


def test_an_explicit_zero_stays_zero(site):
    """The provider says that a stream used nothing; nobody knows better."""

    def spent():
        text = metrics(site)
        rows = ('llm_cost_total_dollars{model="gpt-4o"}', 'llm_token_usage_total{model="gpt-4o",type="output"}',
                'llm_estimated_requests_total{model="gpt-4o"}')  # fmt: skip
        return [metric(text, row) for row in rows]

    before = spent()
    assert "free" in ask(site, "zero", stream=True).text
    wait_until(lambda: metric(metrics(site), "llm_requests_in_flight") == 0)
    assert spent() == before


def test_a_broken_stream_is_never_asked_for_again(site):
    _, up = site
    before = len(up.seen)
    answer = ask(site, model="broken", stream=True)
    assert "half of it" in answer.text
    assert json.loads(answer.text.rstrip().rpartition("data: ")[2])["error"]["code"] == "upstream_stream_broken"
    assert len(up.seen) == before + 1  # three attempts are allowed, and none is right after the first word


def test_no_key_in_what_a_broken_provider_causes(site):
    running, _ = site
    answer = ask(site, model="dead")
    assert answer.status_code == 502
    for text in (answer.text, str(answer.headers), running.log.read_text(), metrics(site)):
        assert ENV["UPK"] not in text
        assert "key=" not in text


def test_token_limits_hold_while_a_stream_is_under_way(site):
    """What is asked for counts when it is let in, not when the last event has come."""
    running, up = site
    up.state["go"].clear()
    url = f"{running.url}/v1/chat/completions"
    body = request("long " * 12, stream=True)  # about thirty tokens: the whole minute
    with httpx.stream("POST", url, json=body, headers=headers("TOKENS"), timeout=20) as answer:
        next(answer.iter_lines())
        refused = ask(site, "long " * 12, key="TOKENS")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert ask(site).json()["choices"][0]["message"]["content"] == OPENAI_TEXT  # other keys are not concerned
        up.state["go"].set()


def test_nothing_runs_or_calls_out_by_being_installed():
    """No start-up hook in what is shipped, no open-ended dependency, and not one connection made by importing it."""
    root = TESTS.parent
    shipped = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert not [name for name in shipped if name.endswith((".pth", "sitecustomize.py", "usercustomize.py", "setup.py"))]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needed = [Requirement(each) for each in project["dependencies"]]
    loose = [each.name for each in needed if not any(spec.operator in ("<", "==", "~=") for spec in each.specifier)]
    assert set(loose) <= {"packaging"}
    code = (
        "import sys\n"
        "def watch(event, args):\n"
        "    if event.startswith(('socket.connect', 'socket.getaddrinfo', 'subprocess.', 'os.system', 'os.exec')):\n"
        "        raise SystemExit(f'{event} {args}')\n"
        "sys.addaudithook(watch)\n"
        "import llmops.cli.main, llmops.gateway.server\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_costs_log_lines_and_no_memory(site):
    """``/dev/full`` is a disk without room: requests are answered, lost lines are counted, nothing piles up."""
    lost = 'llm_log_lines_lost_total{log="access"}'
    for _ in range(2):  # the second time proves that the writer survived the first
        before = metric(metrics(site), lost)
        for _ in range(3):
            assert ask(site).status_code == 200
        wait_until(lambda n=before: metric(metrics(site), lost) >= n + 3, what="lost lines are counted")
    assert "No space left" in site[0].log.read_text()


def test_every_complaint_has_its_tests():
    assert sorted(INDEX) == list(range(1, 30))
    for number, (words, sources, names) in INDEX.items():
        assert words
        assert sources
        assert names, number
        for name in names:
            module, _, test = name.partition("::")
            assert f"\ndef {test}(" in (TESTS / f"{module}.py").read_text(), name
