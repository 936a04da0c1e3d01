"""The small whole: one load through the command line, its JSON, its figures against the server's own log."""

from __future__ import annotations

import pytest
from bench_harness import bench, measure, percentile, true_e2e, true_gaps, true_ttft, truth


def test_the_json_document_has_what_was_measured():
    with truth(ttft_ms=30, gap_ms=3) as server:
        document, _ = bench(
            server.url, "--model", "truth", "--requests", "20", "--concurrency", "4", "--warmup", "0",
            "--input-tokens", "40", "--output-tokens", "8",
        )  # fmt: skip
        requests = server.requests()
    data = document["data"]
    assert document["schema"] == "llmops.bench/1"
    assert document["ok"] is True
    assert len(requests) == 20  # warm-up 0: nothing but what was asked
    assert data["counts"]["requests"] == data["counts"]["ok"] == 20
    assert data["counts"]["output_tokens"] == 160
    assert data["counts"]["input_tokens"] > 0
    assert data["token_source"] == "usage"
    assert data["errors"] == {}
    assert data["metrics"]["error_rate"] == 0
    assert data["metrics"]["goodput"] == 1
    assert data["seed"] == 0
    assert "--requests 20" in data["command"]
    assert data["versions"]["llmops"]
    assert set(data["validity"]) >= {"valid", "reasons"}
    for name, true in (("ttft_ms", true_ttft), ("itl_ms", true_gaps), ("e2e_ms", true_e2e)):
        found, values = data["metrics"][name], true(requests)
        assert set(found) >= {"p50", "p90", "p95", "p99", "mean", "max"}
        # A loose bound: tight ones are in test_bench_accuracy, with a guard against a busy machine.
        assert found["p50"] == pytest.approx(percentile(values, 0.5), rel=0.2, abs=5)
    assert data["metrics"]["ttft_ms"]["n/a"]["p99"] == "needs 459, has 20"


def test_the_help_fits_a_screen_and_names_every_option(llmops):
    from typer.main import get_command

    from llmops.cli.main import app

    shown = llmops("bench", "--help", env={"COLUMNS": "80"}).stdout
    assert len(shown.splitlines()) <= 45
    assert max(map(len, shown.splitlines())) <= 80
    options = {name for option in get_command(app).commands["bench"].params for name in option.opts if "--" in name}
    assert {name for name in options if name not in shown} == set()


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_the_url_works_with_and_without_its_version(suffix):
    with truth(ttft_ms=1, gap_ms=1) as server:
        measure(server.url + suffix, requests=2, output_tokens=2, warmup=1)
        assert {row["path"] for row in server.requests()} == {"/v1/chat/completions"}


def test_nothing_but_the_result_reaches_stdout():
    with truth(ttft_ms=1, gap_ms=1) as server:
        document, done = bench(server.url, "--requests", "3", "--output-tokens", "2")
    assert done.stdout.lstrip().startswith("{")
    assert "warm up" in done.stderr
    assert document["data"]["counts"]["warmup"] == 2
