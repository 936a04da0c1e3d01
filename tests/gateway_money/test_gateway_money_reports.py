"""Reports over a ledger: sums, savings, forecast, choice, comparison, reconciliation."""

import csv
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import InconclusiveError, UsageError
from llmops.gateway.money.choose import Candidate, choose, parse_model
from llmops.gateway.money.compare import CompareSpec, Workload, compare_models
from llmops.gateway.money.entry import COLUMNS, LedgerEntry
from llmops.gateway.money.exports import read_export
from llmops.gateway.money.forecast import forecast_cost, project
from llmops.gateway.money.reconcile import plain_name, reconcile
from llmops.gateway.money.report import CostReportSpec, cost_report, view
from llmops.gateway.money.store import SqliteStore
from llmops.report.terminal import render

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()


def entry(request_id, at, amount, **changes):
    values = (
        request_id, at, "acme", "web", "k1", "gpt-4o", "openai", "gpt-4o", 200, "settled", 1000, 100, 0, 0, 0, 0, 0,
        False, amount, None, "test", "", "", False, 5, None,
    )  # fmt: skip
    return LedgerEntry(**(dict(zip(COLUMNS, values, strict=True)) | changes))


@pytest.fixture
def books(tmp_path):
    store = SqliteStore(tmp_path / "ledger.sqlite")
    rows = [
        entry("a", NOW - 3600, 3_500_000_000),
        entry("b", NOW - 86_400 * 2, 3_500_000_000, key="k2", target="gpt-4o-2024-08-06"),
        entry("c", NOW - 7200, 1_000_000_000, model="llama-3.1-8b", provider="vllm", target="llama-3.1-8b", local=True),
        entry("d", NOW - 60, 0, cache="exact", saved_pico=3_500_000_000),
        entry("e", NOW - 60, None, model="mystery", target="mystery"),
        entry("f", NOW - 60, 9_000_000_000, state="in_flight", status=0),
        entry("g", NOW - 86_400 * 30, 5_000_000_000),
    ]
    store.insert(rows)
    store.close()
    return tmp_path


def report(books, **changes):
    spec = CostReportSpec(books=str(books), since="2026-11-13", until="2026-11-21", **changes)
    return cost_report(spec)


def test_sums_by_model_leave_out_what_is_unknown_and_in_flight(books):
    found = report(books)
    assert {group.names[0]: (group.requests, str(group.cost_usd), group.unknown) for group in found.groups} == {
        "gpt-4o": (3, "0.007000000000", 0), "llama-3.1-8b": (1, "0.001000000000", 0), "mystery": (1, "0E-12", 1),
    }  # fmt: skip
    assert (found.in_flight, float(found.in_flight_usd)) == (1, 0.009)
    assert float(found.total.saved_usd) == 0.0035
    assert {finding.rule for finding in found.findings} == {"unknown-price", "in-flight"}
    text = render(view(found), color=False, width=100)
    assert "unknown" in text
    assert "$0.008 for 5 requests" in text


def test_sums_by_day_follow_the_time_zone(books):
    store = SqliteStore(books / "ledger.sqlite")
    store.insert([entry("z", datetime(2026, 11, 14, 16, tzinfo=UTC).timestamp(), 1_000_000_000_000)])
    store.close()
    utc = {group.names[0] for group in report(books, by="day").groups}
    tokyo = {group.names[0] for group in report(books, by="day", time_zone="Asia/Tokyo").groups}
    assert "2026-11-14" in utc
    assert "2026-11-15" in tokyo
    assert [group.names for group in report(books, by="day,model").groups] == sorted(
        group.names for group in report(books, by="day,model").groups
    )


def test_local_serving_against_a_cloud_price(books):
    found = report(books, against="gpt-4o")
    # gpt-4o: 2.50 $ and 10 $ per million: 1,000 in and 100 out are 0.0035 $; the local request cost 0.001 $.
    assert found.local_saved_usd == Decimal("0.0025")
    with pytest.raises(UsageError, match="no price is known"):
        report(books, against="no-such-model-xyz")


def test_csv_has_every_digit_and_no_formula(books, tmp_path):
    store = SqliteStore(books / "ledger.sqlite")
    store.insert([entry("x", NOW, 1, key="=HYPERLINK(1)")])
    store.close()
    report(books, by="key", csv=tmp_path / "out.csv")
    rows = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    named = {row["key"]: row["cost_usd"] for row in rows}
    assert named["'=HYPERLINK(1)"] == "1E-12"


@pytest.mark.parametrize("changes", [{"by": "modle"}, {"by": ""}, {"time_zone": "Mars"}, {"by": "model,model"}])
def test_malformed_options(books, changes):
    with pytest.raises(UsageError):
        report(books, **changes)


def test_no_ledger(tmp_path):
    with pytest.raises(UsageError, match="no ledger"):
        cost_report(CostReportSpec(books=str(tmp_path / "none")))


# ---- forecast ----


def days(path, costs, last=NOW):
    store = SqliteStore(path / "ledger.sqlite")
    start = datetime.fromtimestamp(last, UTC) - timedelta(days=len(costs))
    store.insert(
        [entry(f"day{n}", (start + timedelta(days=n)).timestamp(), int(cost * 10**12)) for n, cost in enumerate(costs)]
    )
    store.close()


def test_a_steady_load_is_forecast_exactly(tmp_path):
    days(tmp_path, [10] * 25)
    found = forecast_cost(str(tmp_path), now=NOW)
    # 19 whole days of November, then half of the 20th and ten more days.
    assert float(found.spent_usd) == 190
    assert float(found.expected_usd) == pytest.approx(190 + 10 * 10.5)
    assert found.low_usd == found.high_usd == found.expected_usd
    assert forecast_cost(str(tmp_path), budget=Decimal(194), now=NOW).exhausted_on == "2026-11-20"
    over = forecast_cost(str(tmp_path), budget=Decimal(250), now=NOW)
    assert not over.ok
    assert over.exhausted_on == "2026-11-26"
    assert forecast_cost(str(tmp_path), budget=Decimal(300), now=NOW).ok


def test_weekends_count_as_weekends(tmp_path):
    start = datetime.fromtimestamp(NOW, UTC) - timedelta(days=21)
    costs = [1 if (start + timedelta(days=n)).weekday() >= 5 else 10 for n in range(21)]
    days(tmp_path, costs)
    found = forecast_cost(str(tmp_path), now=NOW)
    # From Friday noon: half a Friday, then six working days and four days of weekends.
    assert float(found.expected_usd - found.spent_usd) == pytest.approx(5 + 6 * 10 + 4 * 1)


def test_three_days_are_too_few(tmp_path):
    days(tmp_path, [1, 2, 3])
    with pytest.raises(InconclusiveError, match="3 whole days"):
        forecast_cost(str(tmp_path), now=NOW)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.decimals(0, 1000, places=2)), min_size=4, max_size=28),
    st.lists(st.integers(0, 6), max_size=20),
)
def test_the_range_lies_within_what_was_seen(history, coming):
    expected, low, high = project(history, coming, 1.0)
    dearest = max(cost for _, cost in history)
    assert low <= high
    assert 0 <= expected <= dearest * len(coming) + Decimal("0.001")


# ---- choice ----

CANDIDATES = (
    Candidate("opus", 4, 900),
    Candidate("sonnet", 3, 300),
    Candidate("mini", 2, 30),
    Candidate("big-local", 2, 40, local=True),
    Candidate("small-local", 1, 5, local=True),
    Candidate("mystery", 4, None),
)


def order(tier, left, candidates=CANDIDATES):
    decision = choose(candidates, tier, left)
    return [each.name for each in decision.order], decision.fell_back


def test_the_cheapest_that_is_good_enough_and_fits():
    assert order(3, None) == (["sonnet", "opus", "mystery"], False)
    assert order(2, 100) == (["mini", "big-local"], False)
    assert order(4, 1000) == (["opus"], False)
    assert order(4, 100) == (["small-local", "big-local"], True)
    assert order(4, 10) == (["small-local"], True)
    assert order(4, 1) == ([], False)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            Candidate, st.text(min_size=1, max_size=3), st.integers(0, 4), st.none() | st.integers(0, 100), st.booleans(),
            st.booleans(),
        )
    ),
    st.integers(0, 4),
    st.none() | st.integers(0, 100),
)  # fmt: skip
def test_a_choice_never_breaks_a_rule(candidates, tier, left):
    decision = choose(candidates, tier, left)
    assert len(decision.verdicts) == len(candidates)
    for each in decision.order:
        assert each.available
        assert left is None or each.worst_pico <= left
        assert each.tier >= tier or (decision.fell_back and each.local)
    prices = [each.worst_pico for each in decision.order if each.worst_pico is not None]
    assert prices == sorted(prices)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("gpt-4o", ("gpt-4o", 1, False)),
        ("gpt-4o:3", ("gpt-4o", 3, False)),
        ("llama:1:local", ("llama", 1, True)),
        ("llama:local", ("llama", 1, True)),
        ("ollama/llama3:8b:2", ("ollama/llama3:8b", 2, False)),
    ],
)
def test_models_as_typed(text, parsed):
    assert parse_model(text) == parsed


# ---- comparison ----


def test_a_workload_on_several_models():
    found = compare_models(
        CompareSpec(("gpt-4o", "gpt-4o-mini", "no-such-model-xyz"), Workload(1000, 10_000, 1000, 0.8))
    )
    assert [offer.model for offer in found.offers] == ["gpt-4o-mini", "gpt-4o", "no-such-model-xyz"]
    assert found.offers[1].per_request_usd == Decimal("0.025")
    assert found.offers[1].cost_usd == Decimal("25.000")
    assert found.offers[2].cost_usd is None
    assert found.ok


def test_the_recorded_workload(books):
    found = compare_models(CompareSpec(("gpt-4o",), None, str(books), since="2026-11-13"))
    assert (found.workload.requests, found.workload.input_tokens) == (5, 1000)


# ---- reconciliation ----

OPENAI_CSV = """start_time,end_time,model,num_model_requests,input_tokens,output_tokens,input_cached_tokens
{day},{end},gpt-4o-2024-08-06,1,1000,{out},0
{before},{day},gpt-4o-2024-08-06,1,1000,100,0
"""
ANTHROPIC_JSON = {
    "data": [
        {
            "starting_at": "2026-11-20T00:00:00Z",
            "ending_at": "2026-11-21T00:00:00Z",
            "results": [
                {
                    "model": "claude-sonnet-4-20250514",
                    "uncached_input_tokens": 3,
                    "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 12304},
                    "cache_read_input_tokens": 0,
                    "output_tokens": 550,
                }
            ],
        }
    ],
    "has_more": False,
}


def epoch(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def openai_csv(out=100):
    return OPENAI_CSV.format(day=epoch("2026-11-20"), end=epoch("2026-11-21"), before=epoch("2026-11-18"), out=out)


def test_books_that_agree(books, tmp_path):
    (tmp_path / "usage.csv").write_text(openai_csv())
    found = reconcile(tmp_path / "usage.csv", str(books), "openai", 0.005)
    # The request without a known price is in our books only.
    assert [line.model for line in found.lines if line.differences] == ["mystery"]
    agreeing = [line for line in found.lines if not line.differences]
    assert [(line.day, line.model) for line in agreeing] == [("2026-11-18", "gpt-4o"), ("2026-11-20", "gpt-4o")]


def test_books_that_differ(books, tmp_path):
    (tmp_path / "usage.csv").write_text(openai_csv(out=130))
    found = reconcile(tmp_path / "usage.csv", str(books), "openai", 0.005)
    assert not found.ok
    assert any("output under by 23.1%" in finding.message for finding in found.findings)


def test_an_export_of_anthropic(tmp_path):
    path = tmp_path / "usage.json"
    path.write_text(json.dumps(ANTHROPIC_JSON))
    [row] = read_export(path)
    assert (row.day, row.input_tokens, row.output_tokens) == ("2026-11-20", 12_307, 550)
    cost = {"data": [{"starting_at": "2026-11-20T00:00:00Z", "results": [
        {"amount": "123.45", "currency": "USD", "model": "claude-sonnet-4-20250514"}]}]}  # fmt: skip
    path.write_text(json.dumps(cost))
    assert read_export(path)[0].cost_usd == Decimal("1.2345")


def test_an_export_of_openais_costs(tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"object": "page", "data": [{"object": "bucket", "start_time": epoch("2026-11-20"),
        "results": [{"amount": {"value": 0.06, "currency": "usd"}, "line_item": "gpt-4o-2024-08-06"}]}]}))  # fmt: skip
    [row] = read_export(path)
    assert (row.model, row.cost_usd) == ("gpt-4o-2024-08-06", Decimal("0.06"))


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "{", "[1, 2]", '{"data": []}', "date,model,output_tokens\n2026-01-01,m,x\n"]
)
def test_files_that_are_no_export(tmp_path, text):
    (tmp_path / "f").write_text(text)
    with pytest.raises(UsageError):
        read_export(tmp_path / "f")


def test_days_without_rows_are_inconclusive(books, tmp_path):
    (tmp_path / "usage.csv").write_text("date,model,output_tokens\n2020-01-01,gpt-4o,5\n")
    with pytest.raises(InconclusiveError):
        reconcile(tmp_path / "usage.csv", str(books), None, 0.005)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"), ("claude-3-haiku-20240307", "claude-3-haiku"), ("GPT-4o", "gpt-4o"),
        ("gpt-3.5-turbo-0125", "gpt-3.5-turbo"), ("openai/gpt-4o", "gpt-4o"), ("llama-3.1-8b", "llama-3.1-8b"),
    ],
)  # fmt: skip
def test_names_without_dates(name, plain):
    assert plain_name(name) == plain


# ---- the commands ----

RUN = """
import typer
from llmops.cli import cost_reports
app, cost = typer.Typer(), typer.Typer()
cost_reports.register(cost)
app.add_typer(cost, name="cost")
app()
"""


def command(*args):
    return subprocess.run([sys.executable, "-c", RUN, "cost", *map(str, args)], capture_output=True, text=True)


def test_the_commands(books, tmp_path):
    done = command("report", "--books", books, "--since", "2026-11-01", "--by", "model,key", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["groups"][0]["cost_usd"] == "0.003500000000"
    page = command("report", "--books", books, "--since", "2026-11-01", "--report", tmp_path / "r.html")
    assert page.returncode == 0, page.stderr
    assert "<svg" in (tmp_path / "r.html").read_text()
    assert "http" not in (tmp_path / "r.html").read_text().replace("http://www.w3.org", "")
    chosen = command("choose", "gpt-4o:3", "gpt-4o-mini:2", "--tier", "2", "--left", "0.01")
    assert chosen.returncode == 0, chosen.stderr
    assert chosen.stdout.strip().endswith("gpt-4o-mini")
    none = command("choose", "gpt-4o:3", "--tier", "4", "--left", "0.000001")
    assert none.returncode == 1
    compared = command("compare", "gpt-4o", "gpt-4o-mini", "--input-tokens", "1000", "--output-tokens", "300")
    assert compared.returncode == 0, compared.stderr
    (tmp_path / "u.csv").write_text(openai_csv())
    assert command("reconcile", tmp_path / "u.csv", "--books", books).returncode == 1
    few = command("forecast", "--books", books)
    assert few.returncode in (0, 6)


def test_every_form_of_the_report_on_stdout(books):
    def printed(form):
        done = command("report", "--books", books, "--since", "2026-11-01", "--format", form)
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = list(csv.DictReader(printed("csv").splitlines()))
    assert {row["model"]: row["cost_usd"] for row in rows}["gpt-4o"] == "0.007000000000"
    assert json.loads(printed("json"))["data"]["total"]["requests"] == 5
    assert "| gpt-4o | 3 |" in printed("md")
    page = printed("html")
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert "gpt-4o" in printed("table")
    assert command("report", "--books", books, "--format", "pdf").returncode == 2
