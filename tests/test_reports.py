"""Renderers: valid in their own format, whatever text they are given."""

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.findings import Finding
from llmops.report import files, html, junit, markdown, sarif, terminal
from llmops.report.document import Chart, Code, Document, Facts, Heading, Series, Table, Text
from llmops.report.svg import nice_ticks
from llmops.units import format_usd, parse_duration_s, parse_size

text = st.text(max_size=40)
findings = st.builds(
    Finding,
    rule=st.from_regex(r"[a-z]{1,5}(-[a-z]{1,5})?", fullmatch=True),
    severity=st.sampled_from(["error", "warning", "note", "ok"]),
    message=text,
    remedy=st.none() | text,
    file=st.none() | st.just("a/b.yaml"),
    line=st.none() | st.integers(1, 99),
)


@dataclass(frozen=True)
class Some:
    ok: bool
    findings: tuple[Finding, ...]
    cost: Decimal = Decimal("0.1")


@given(st.lists(findings, max_size=5), st.booleans())
def test_junit_is_xml_that_counts_right(found, ok):
    root = ET.fromstring(junit.render("bench", Some(ok, tuple(found))).encode())
    suite = root.find("testsuite")
    errors = sum(finding.severity == "error" for finding in found)
    assert int(suite.get("tests")) == len(suite.findall("testcase"))
    assert int(suite.get("failures")) == len(suite.findall(".//failure")) == (errors or int(not ok))


@given(st.lists(findings, max_size=5))
def test_sarif_has_every_located_finding_with_a_known_rule(found):
    run = json.loads(sarif.render("diagnose", tuple(found), "1"))["runs"][0]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert len(run["results"]) == sum(bool(f.file) and f.severity != "ok" for f in found)
    assert all(result["ruleId"] in rules for result in run["results"])


@given(st.lists(findings, max_size=3))
def test_the_envelope_is_json_with_money_as_text(found):
    document = json.loads(files.envelope("x", Some(True, tuple(found))))
    assert document["data"] == {"cost": "0.1"}
    assert len(document["findings"]) == len(found)


HOSTILE = "<script>alert(1)</script> | a\nb \x1b[31m ` 日本語"
PAGE = Document(
    f"Title {HOSTILE}",
    (
        Heading("Part"),
        Text(HOSTILE, "warn"),
        Facts((("label", HOSTILE),)),
        Table(("name", "value"), ((HOSTILE, "1"),), frozenset({"value"}), HOSTILE),
        Code("x = 1\n```\ny", "python"),
        Chart("Lines", "line", "streams", "ms", (Series("p50", ((1.0, 10.0), (4.0, 22.5))), Series("p99", ((1.0, 30.0), (4.0, 81.0))))),
        Chart("Bars", "bar", "model", "MiB", (Series("size", (("base", 536.0), ("gptq", 388.0))),)),
        Chart("Empty", "line", "x", "y", (Series("none", ()),)),
    ),
    Text("done", "good"),
    (("llmops", "1"),),
)  # fmt: skip


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.outside = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href") or (value or "").startswith("http:")]
        if tag not in ("meta", "line", "rect", "circle", "polyline", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_closed_safe_and_self_contained():
    page = html.render(PAGE)
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert "script" not in reader.seen
    assert [value for value in reader.outside if "w3.org" not in value] == []
    assert reader.seen.count("svg") == 2
    assert "no data" in page


def test_markdown_keeps_tables_whole():
    page = markdown.render(PAGE)
    assert "| &lt;script>alert(1)&lt;/script> \\| a<br>b" in page
    assert "| streams | p50 | p99 |" in page
    assert "````python" in page


@pytest.mark.parametrize("width", [40, 80, 200])
def test_terminal_keeps_the_width_and_no_escape_codes_without_colour(width):
    page = terminal.render(PAGE, color=False, width=width)
    assert "\x1b" not in page
    assert all(len(line) <= width for line in page.splitlines() if "script" not in line)


@given(st.floats(-1e6, 1e6), st.floats(0.001, 1e6))
def test_ticks_cover_the_range_and_are_few(low, span):
    ticks = nice_ticks(low, low + span)
    assert ticks[0] <= low + 1e-6 * max(abs(low), span)
    assert ticks[-1] >= low + span - 1e-6 * max(abs(low), span)
    assert 2 <= len(ticks) <= 12


@pytest.mark.parametrize(
    ("given_text", "size"), [("16GiB", 16 << 30), ("2G", 2 << 30), ("512 MB", 512_000_000), ("1.5k", 1536), ("7", 7)]
)
def test_sizes(given_text, size):
    assert parse_size(given_text) == size


@pytest.mark.parametrize(("given_text", "seconds"), [("500ms", 0.5), ("60", 60), ("2h", 7200), ("1.5m", 90)])
def test_durations(given_text, seconds):
    assert parse_duration_s(given_text) == seconds


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0", "$0"), ("12.345", "$12.35"), ("0.054399", "$0.0544"), ("0.0000012", "$0.0000012"), ("1234.5", "$1,234.50")],
)
def test_money(amount, shown):
    assert format_usd(Decimal(amount)) == shown
