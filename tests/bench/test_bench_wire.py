"""Every wire quirk and every fault of a real server: what counts as a token, what counts as latency, what is a failure."""

from __future__ import annotations

import json
import sys

import pytest
from bench_harness import bench, measure, percentile, true_gaps, true_ttft, truth

QUICK = ("--model", "truth", "--warmup", "0", "--input-tokens", "32")


def run(requests=6, concurrency=6, tokens=8, spec=None, **config):
    """One load against a server that behaves as ``config`` says; the report's data, and the server's own log."""
    config = {"ttft_ms": 50, "gap_ms": 4, **config}
    options = {"model": "truth", "warmup": 0, "input_tokens": 32, "output_tokens": tokens, **(spec or {})}
    with truth(**config) as server:
        return measure(server.url, requests=requests, concurrency=concurrency, **options), server.requests()


def close_to(found, values, share, abs_ms=30.0):
    # Wide enough for a busy machine, and far from what each bug would report; the tight bounds are in the accuracy tests.
    assert found == pytest.approx(percentile(values, share), rel=0.1, abs=abs_ms)


@pytest.mark.parametrize("role", ["receipt", "first", "none"])
def test_the_role_chunk_is_never_a_token(role):
    data, requests = run(role=role)
    close_to(data["metrics"]["ttft_ms"]["p50"], true_ttft(requests), 0.5)
    assert data["metrics"]["itl_ms"]["count"] == len(true_gaps(requests))


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_a_token_and_visible_text_has_its_own_time(name):
    data, requests = run(reasoning=5, reasoning_field=name)
    close_to(data["metrics"]["ttft_ms"]["p50"], true_ttft(requests), 0.5)
    visible = [(row["visible_ns"] - row["recv_ns"]) / 1e6 for row in requests]
    close_to(data["metrics"]["ttft_visible_ms"]["p50"], visible, 0.5)
    assert data["metrics"]["ttft_visible_ms"]["p50"] > data["metrics"]["ttft_ms"]["p50"] + 5
    assert data["counts"]["output_tokens"] == 48  # reasoning tokens once, by usage


@pytest.mark.parametrize(
    "quirk",
    [
        {"crlf": True},
        {"comments": True},
        {"crlf": True, "comments": True},
        {"split": 7},
        {"split": 1, "text": "日本🎉"},
        {"text": "日本語🎉 "},
        {"finish": "last"},
        {"tool_call": True},
        {"done": False},
        {"usage": "continuous"},
        {"close": "header"},
        {"done": False, "finish": "last", "usage": "none"},
    ],
    ids=str,
)
def test_quirks_of_the_wire_change_nothing(quirk):
    data, requests = run(**quirk)
    assert data["counts"]["ok"] == 6
    assert data["counts"]["failed"] == 0
    assert data["counts"]["output_tokens"] == 48
    close_to(data["metrics"]["ttft_ms"]["p50"], true_ttft(requests), 0.5)
    assert data["metrics"]["itl_ms"]["count"] == len(true_gaps(requests)) == 42


@pytest.mark.parametrize("api", ["completions", "messages"])
def test_the_other_apis(api):
    data, requests = run(spec={"api": api})
    assert {row["path"] for row in requests} == {f"/v1/{api}"}
    assert data["counts"]["ok"] == 6
    assert data["counts"]["output_tokens"] == 48
    assert data["counts"]["input_tokens"] > 0
    close_to(data["metrics"]["ttft_ms"]["p50"], true_ttft(requests), 0.5)


def test_several_events_in_one_packet_are_all_tokens():
    data, _ = run(pack=4, tokens=16)
    assert data["counts"]["output_tokens"] == 96
    assert data["metrics"]["itl_ms"]["count"] == 6 * 15
    assert data["metrics"]["itl_ms"]["p50"] < 1  # they did arrive together
    assert data["metrics"]["itl_ms"]["max"] > 8


def test_late_usage_and_done_are_not_latency():
    data, requests = run(late_ms=250)
    ends = [(row["sent_ns"][-1] - row["recv_ns"]) / 1e6 for row in requests]
    close_to(data["metrics"]["e2e_ms"]["max"], ends, 1.0)
    assert data["metrics"]["stream_end_ms"]["p50"] > data["metrics"]["e2e_ms"]["p50"] + 200


def test_several_tokens_in_a_chunk_are_counted_as_tokens():
    data, requests = run(per_chunk=4, first_chunk=4, tokens=32, usage="continuous")
    assert data["token_source"] == "continuous-usage"
    metrics = data["metrics"]
    # 7 chunks of 4 after the first: gaps of tokens are a quarter of the gaps of chunks.
    assert metrics["itl_ms"]["count"] == 6 * 28
    assert metrics["chunk_gap_ms"]["count"] == 6 * 7
    assert metrics["itl_ms"]["mean"] == pytest.approx(metrics["chunk_gap_ms"]["mean"] / 4, rel=0.01)
    spans = [(row["sent_ns"][-1] - row["sent_ns"][0]) / 1e6 / 28 for row in requests]
    # The tokens of the first chunk cost no time after the first token, so they are not in TPOT's divisor.
    close_to(metrics["tpot_ms"]["p50"], spans, 0.5, 1)


def test_bundled_tokens_without_continuous_usage_are_spread_and_said():
    data, _ = run(per_chunk=4, first_chunk=4, tokens=32)
    assert data["token_source"] == "usage"
    assert data["counts"]["output_tokens"] == 192
    assert data["metrics"]["itl_ms"]["mean"] == pytest.approx(data["metrics"]["chunk_gap_ms"]["mean"] / 4, rel=0.01)
    assert any("usage says 192 tokens" in warning for warning in data["validity"]["warnings"])


def test_a_usage_that_disagrees_with_the_events_is_a_warning():
    data, _ = run(usage="wrong")
    assert data["counts"]["output_tokens"] == 6 * 13
    assert any("usage says 78 tokens, 48 came as events" in warning for warning in data["validity"]["warnings"])


def test_tokens_are_counted_by_events_where_there_is_no_usage():
    data, _ = run(usage="none")
    assert data["token_source"] == "events"
    assert data["counts"]["output_tokens"] == 48


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("error-event", "error-event"),
        ("error-string", "error-event"),
        ("no-finish", "no-finish"),
        ("cut", "cut"),
        ("reset", "closed-before-response"),
        ("close", "closed-before-response"),
        ("empty", "empty"),
        ("500", "http-500"),
        ("429", "http-429"),
        ("garbage", "protocol"),
    ],
)
def test_a_fault_is_a_failed_request_and_never_in_a_latency(fault, kind):
    # 500 tokens at 4 ms: a failed request that counted would show as a short end-to-end time.
    config = {"done": False} if fault == "no-finish" else {}
    if fault in ("reset", "close"):
        config["close"] = "header"  # on a kept connection this would be the race that is asked again
    data, _ = run(fault=fault, fault_every=3, requests=9, tokens=20, **config)
    assert data["counts"] == {**data["counts"], "requests": 9, "ok": 6, "failed": 3, "output_tokens": 120}
    assert data["errors"] == {kind: 3}
    assert data["metrics"]["error_rate"] == pytest.approx(1 / 3)
    assert data["metrics"]["e2e_ms"]["count"] == 6
    assert data["metrics"]["ttft_ms"]["count"] == 6
    assert data["metrics"]["itl_ms"]["count"] == 6 * 19
    if fault.isdigit():
        assert data["error_details"][kind] == f"truth says {fault}"
    if fault == "error-event":
        assert data["error_details"][kind] == "engine died"


def test_a_hanging_server_is_a_timeout():
    data, _ = run(spec={"timeout": "400ms"}, fault="hang", fault_every=3, requests=6)
    assert data["errors"] == {"first-byte-timeout": 2}


def test_a_kept_connection_that_the_server_closed_is_asked_again_and_is_no_failure():
    data, requests = run(close="silent", keep=2, requests=12, concurrency=2)
    assert data["counts"]["ok"] == 12
    assert data["errors"] == {}
    assert data["counts"]["retried"] >= 2
    # A retry has its own clock: the closed connection is nobody's latency.
    close_to(data["metrics"]["ttft_ms"]["max"], true_ttft(requests), 1.0)


def test_nothing_answered_is_exit_5_and_still_one_document():
    with truth(fault="500") as server:
        document, _ = bench(server.url, *QUICK, "--requests", "4", check=5)
    assert document["ok"] is False
    assert document["data"]["counts"]["failed"] == 4
    assert document["data"]["metrics"]["ttft_ms"] is None


def test_answers_without_a_stream():
    data, requests = run(spec={"stream": False})
    whole = [(row["end_ns"] - row["recv_ns"]) / 1e6 for row in requests]
    close_to(data["metrics"]["e2e_ms"]["p50"], whole, 0.5)
    assert data["counts"]["output_tokens"] == 48


def test_connections_are_opened_before_the_clock_and_never_more_than_needed():
    with truth(ttft_ms=20, gap_ms=1) as server:
        load = {"model": "truth", "warmup": 0, "requests": 60, "concurrency": 20, "output_tokens": 2}
        data = measure(server.url, **load)
        # One more connection asks for the log.
        assert server.log()["connections"] == 21
        assert data["client"]["connect_max_ms"] > 0
        measure(server.url, **load, cold=True)
        assert server.log()["connections"] == 21 + 61


def test_only_standard_fields_are_sent_unless_asked():
    _, requests = run()
    assert set(requests[0]["body"]) == {"model", "messages", "max_tokens", "stream", "stream_options"}
    _, requests = run(spec={"ignore_eos": True, "extra_body": {"temperature": 0, "stream_options": None}}, usage="none")
    assert set(requests[0]["body"]) == {"model", "messages", "max_tokens", "stream", "ignore_eos", "temperature"}


def test_the_key_comes_from_the_environment_and_stays_out_of_everything(tmp_path):
    secret, other = "sk-test-0123456789abcdefghij", "looks-like-nothing"
    with truth(ttft_ms=1, gap_ms=1) as server:
        report = tmp_path / "report.json"
        options = (
            *QUICK,
            "--requests",
            "2",
            "--output-tokens",
            "2",
            "--api-key-env",
            "BENCH_KEY",
            "--header",
            f"X-Api-Key: {other}",
            "--report",
            str(report),
        )
        document, done = bench(server.url, *options, env={"BENCH_KEY": secret})
        assert f"Bearer {secret}" in server.requests()[0]["head"]
        assert f"X-Api-Key: {other}" in server.requests()[0]["head"]
        for word in (secret, other):
            assert word not in done.stdout + done.stderr + report.read_text()
        document, _ = bench(server.url, *options, check=4)
    assert "BENCH_KEY" in document["error"]["message"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--requests", "0"), "requests"),
        (("--rate", "5", "--trace", "x.jsonl"), "trace"),
        (("--slo", "tfft.p99<500ms"), "ttft"),
        (("--slo", "ttft.p99<500"), "unit"),
        (("--slo", "ttft.p98<500ms"), "p99"),
        (("--slo", "error_rate<200%"), "share"),
        (("--arrival", "weibull"), "arrival"),
        (("--input-tokens", "many"), "128"),
        (("--find-max",), "slo"),
        (("--duration", "soon"), "duration"),
        (("--extra-body", "[1]"), "extra-body"),
        (("--header", "X"), "Name: value"),
        (("--api", "cohere"), "chat"),
        (("--dataset", "/nowhere.jsonl"), "/nowhere.jsonl"),
        (("--report", "/nowhere/r.csv"), "mkdir"),
        (("--report", "/nowhere/r.html"), "mkdir"),
        (("--report", "r.pdf"), ".html"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_sent(options, words, monkeypatch, capfd):
    from llmops.cli.main import main

    # The command line in this process: fourteen interpreters would take longer than all the rest.
    monkeypatch.setattr(sys, "argv", ["llmops", "bench", "http://127.0.0.1:9", *QUICK, *options, "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capfd.readouterr()
    error = json.loads(out)["error"]
    assert stop.value.code == 2
    assert words in error["message"] + (error["hint"] or "")
    assert "Traceback" not in err


def test_an_unreachable_server_is_exit_5_with_what_to_do():
    document, _ = bench("http://127.0.0.1:9", *QUICK, "--requests", "2", check=5)
    assert "127.0.0.1:9" in document["error"]["message"]
    assert "llmops serve" in document["error"]["hint"]
