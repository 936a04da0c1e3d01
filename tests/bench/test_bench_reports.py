"""What a measurement leaves: files of every kind, comparisons, A/B, exit codes, cost."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest
from bench_harness import bench, measure, truth

QUICK = ("--model", "truth", "--warmup", "0", "--input-tokens", "32", "--output-tokens", "6")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """One sweep with every report."""
    out = tmp_path_factory.mktemp("reports")
    names = ("r.json", "r.xml", "r.md", "r.html", "r.csv", "r.gab.json")
    options = [word for name in names for word in ("--report", str(out / name))]
    with truth(ttft_ms=20, gap_ms=3) as server:
        load = ("--sweep", "1,4,8", "--requests", "60", "--gpu-hour-cost", "2.50")
        slos = ("--slo", "ttft.p90<5s", "--slo", "e2e.p50<1ms", "--slo", "error_rate<90%")
        document, done = bench(server.url, *QUICK, *load, *slos, *options, check=None)
    return out, document, done


def test_json_and_a_line_a_request_beside_it(reported):
    out, document, _ = reported
    saved = json.loads((out / "r.json").read_text())
    assert saved["data"]["metrics"] == document["data"]["metrics"]
    lines = [json.loads(line) for line in (out / "r.requests.jsonl").read_text().splitlines()]
    assert len(lines) == 180
    assert {line["load"] for line in lines} == {"1 user", "4 users", "8 users"}
    assert all(len(line["token_ms"]) == 6 for line in lines)
    assert document["data"]["raw"].endswith("r.requests.jsonl")


def test_junit_has_a_case_for_each_slo(reported):
    out, _, _ = reported
    cases = ET.parse(out / "r.xml").getroot().findall(".//testcase")
    failed = {case.get("name") for case in cases if case.find("failure") is not None}
    slos, levels = ("slo-ttft-p90", "slo-e2e-p50", "slo-error-rate"), ("1-user", "4-users", "8-users")
    names = [case.get("name") for case in cases]
    assert {f"{slo}-at-{level}" for slo in slos for level in levels} <= set(names)
    assert len({name for name in names if name.startswith("slo-")}) == 9
    assert "slo-e2e-p50-at-8-users" in failed
    assert "slo-ttft-p90-at-8-users" not in failed


def test_csv_has_a_row_for_each_level(reported):
    out, _, _ = reported
    rows = list(csv.DictReader(io.StringIO((out / "r.csv").read_text())))
    assert [row["concurrency"] for row in rows] == ["1", "4", "8"]
    assert float(rows[0]["ttft_ms.p50"]) > 5
    assert rows[0]["ttft_ms.p99"] == ""  # 60 requests carry no p99


def test_github_action_benchmark_lists(reported):
    out, _, _ = reported
    smaller = json.loads((out / "r.gab.json").read_text())
    bigger = json.loads((out / "r.gab-bigger.json").read_text())
    assert {"name", "unit", "value"} <= set(smaller[0])
    assert {row["unit"] for row in smaller} == {"ms"}
    assert not any("p99" in row["name"] for row in smaller)
    assert [row["unit"] for row in bigger] == ["tokens/s"] * 3


def test_cost_by_the_machine_hour(reported):
    _, document, _ = reported
    data = document["data"]
    per_million = 2.50 / (data["metrics"]["output_tokens_per_s"] * 3600) * 1e6
    assert float(data["cost"]["usd_per_million_output_tokens"]) == pytest.approx(per_million, rel=1e-3)


def test_cost_of_a_cloud_model_comes_from_the_price_library():
    with truth(ttft_ms=2, gap_ms=1) as server:
        spec = {"warmup": 0, "requests": 4, "output_tokens": 4, "input_tokens": 32}
        known = measure(server.url, model="gpt-4o", provider="openai", **spec)
        unknown = measure(server.url, model="nobody-knows-this", provider="openai", **spec)
        local = measure(server.url, model="gpt-4o", **spec)
    counts = known["counts"]
    expected = (counts["input_tokens"] * 2.5 + counts["output_tokens"] * 10) / 1e6
    assert float(known["cost"]["usd"]) == pytest.approx(expected, rel=1e-6)
    assert known["cost"]["source"]
    assert unknown["cost"]["usd"] is None
    assert unknown["cost"]["reason"]
    assert local["cost"] is None  # a server on this machine does not bill like the cloud model of that name


PROBE = """<script>
window.onload = () => {
  document.title = JSON.stringify({
    charts: [...document.querySelectorAll('figcaption')].map(f => f.innerText),
    drawn: [...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 100),
    requests: performance.getEntriesByType('resource').length,
  });
};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_the_html_page_shows_its_charts_in_a_browser_and_asks_for_nothing(reported, tmp_path):
    out, _, _ = reported
    page = (out / "r.html").read_text()
    probed = tmp_path / "probed.html"
    probed.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    command = [CHROMIUM, *flags, "--virtual-time-budget=2000", f"--user-data-dir={tmp_path / 'p'}", "--dump-dom"]
    done = subprocess.run([*command, probed.as_uri()], capture_output=True, text=True, timeout=120)
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    seen = json.loads(title)
    assert seen["requests"] == 0
    assert seen["drawn"]
    for wanted in ("Latency against load", "Time to first token", "Gap between tokens", "TTFT by time"):
        assert any(wanted in caption for caption in seen["charts"]), seen["charts"]


def test_exit_codes_follow_the_verdict():
    with truth(ttft_ms=10, gap_ms=1) as server:
        load = (*QUICK, "--requests", "60", "--concurrency", "2")
        for _ in range(8):  # a run that the client calls invalid is inconclusive; measured again, not taken for a pass
            document, done = bench(server.url, *load, "--slo", "ttft.p90<5s", check=None)
            if document["data"]["validity"]["valid"]:
                break
        else:
            pytest.fail(f"every run was INVALID: {document['data']['validity']['reasons']}")
        assert (done.returncode, document["data"]["verdict"], document["ok"]) == (0, "PASS", True)
        document, done = bench(server.url, *load, "--slo", "ttft.p99<5s", check=6)
        assert document["data"]["verdict"] == "INCONCLUSIVE"
        assert document["data"]["slos"][0]["needed"] == 459
        for _ in range(8):
            document, done = bench(server.url, *load, "--slo", "ttft.p90<1ms", check=None)
            if document["data"]["validity"]["valid"]:
                break
        assert (done.returncode, document["data"]["verdict"]) == (1, "FAIL")


def test_baseline_and_compare(tmp_path):
    base, slow = tmp_path / "base.json", tmp_path / "slow.json"
    spec = (*QUICK, "--requests", "120", "--concurrency", "4")
    with truth(ttft_ms=20, gap_ms=3, sigma=0.1) as server:
        bench(server.url, *spec, "--report", str(base), check=0)
    with truth(ttft_ms=40, gap_ms=6, sigma=0.1) as server:
        document, done = bench(server.url, *spec, "--baseline", str(base), "--report", str(slow), check=None)
    changes = {change["metric"]: change for change in document["data"]["comparison"]["changes"]}
    assert changes["ttft_ms"]["ratio"] == pytest.approx(2, rel=0.25)
    assert {changes[name]["verdict"] for name in ("ttft_ms", "tpot_ms")} == {"FAIL"}
    verdict = document["data"]["verdict"]
    assert (done.returncode, verdict) in ((1, "FAIL"), (6, "INCONCLUSIVE"))  # the second where a run was invalid
    with truth(ttft_ms=10, gap_ms=1.5, sigma=0.1) as server:
        document, done = bench(server.url, *spec, "--baseline", str(base), check=None)
        verdict = document["data"]["verdict"]
        assert (done.returncode, verdict) in ((0, "PASS"), (6, "INCONCLUSIVE"))  # faster; invalid on a busy machine
        assert document["data"]["comparison"]["changes"][0]["verdict"] != "FAIL"
    document, _ = bench("compare", str(base), str(slow), check=None)
    assert {change["verdict"] for change in document["data"]["changes"]} == {"FAIL"}
    document, _ = bench("compare", str(base), str(tmp_path / "none.json"), check=2)
    document, _ = bench("compare", str(base), check=2)
    assert "two reports" in document["error"]["message"]
    document, _ = bench("compare", str(base), str(slow), "--report", str(tmp_path / "r.csv"), check=2)
    assert "one URL" in document["error"]["message"]


def test_ab_interleaves_and_finds_a_slower_server():
    with truth(ttft_ms=15, gap_ms=3, sigma=0.1) as a, truth(ttft_ms=30, gap_ms=6, sigma=0.1) as b:
        load = (*QUICK, "--requests", "32", "--concurrency", "4", "--rounds", "2")
        document, done = bench("--ab", a.url, b.url, *load, check=None)
        first = {row["recv_ns"]: "A" for row in a.requests()} | {row["recv_ns"]: "B" for row in b.requests()}
    data = document["data"]
    assert data["order"] == "ABBAABBA"
    runs = [first[at_ns] for at_ns in sorted(first)]
    blocks = "".join(runs[i] for i in range(16, len(runs), 32))
    assert blocks == "ABBAABBA"
    assert {change["metric"] for change in data["changes"] if change["verdict"] == "FAIL"} >= {"ttft_ms", "tpot_ms"}
    if data["invalid_runs"] <= 4:
        assert (done.returncode, data["verdict"]) == (1, "FAIL")


def test_the_verdict_line_is_the_last_thing_a_person_reads(llmops):
    with truth(ttft_ms=5, gap_ms=1) as server:
        result = llmops("bench", server.url, *QUICK, "--requests", "30", "--slo", "e2e.p50<1ms")
    last = result.stdout.strip().split("\n\n")[-1]
    assert (result.code, last.partition(":")[0]) in ((1, "FAIL"), (6, "INCONCLUSIVE"))


def test_an_invalid_run_is_no_success_unless_that_is_allowed():
    from llmops.bench import bench as measure_endpoint
    from llmops.bench import bench_spec
    from llmops.progress import Silent

    # Four requests never are sixty-four users.
    spec = {"model": "truth", "warmup": 0, "requests": 4, "concurrency": 64, "output_tokens": 2, "input_tokens": 32}
    with truth(ttft_ms=5, gap_ms=1) as server:
        for options, code in (
            ({}, 6),
            ({"allow_invalid": True}, 0),
            ({"allow_invalid": True, "slo": ("ttft.p50<5s",)}, 6),  # a judgement needs a valid run, whatever is allowed
        ):
            report = measure_endpoint(bench_spec(url=server.url, **spec, **options), Silent())
            assert "4 of 64 had a request to send" in report.level.validity.reasons[0]
            assert (int(report.exit_code), report.ok, report.verdict) == (code, code == 0, "INCONCLUSIVE")
