"""The HTML report in a real browser: it renders, asks for nothing, and shows its charts."""

import json
import shutil
import subprocess

import pytest

from llmops.report import html
from llmops.report.document import Chart, Document, Series, Table, Text

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=2000",
)  # fmt: skip

PROBE = """<script>
window.onload = () => {
  const charts = [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect());
  document.title = JSON.stringify({
    charts: charts.map(r => [r.width > 300, r.height > 100]),
    wide: document.documentElement.scrollWidth > window.innerWidth,
    requests: performance.getEntriesByType('resource').length,
    text: document.body.innerText.includes('日本語'),
  });
};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [1200, 400])
def test_a_report_renders_and_asks_for_nothing(tmp_path, width):
    page = html.render(
        Document(
            "Report",
            (
                Text("日本語"),
                Table(("name", "value"), (("a" * 60, "1"), ("path/" * 30, "2"))),
                Chart("Load", "line", "streams", "ms", (Series("p50", ((1.0, 2.0), (4.0, 8.0))),)),
                Chart("Size", "bar", "model", "MiB", (Series("size", (("base", 536.0), ("gptq", 388.0))),)),
            ),
            Text("fine", "good"),
        )
    )
    file = tmp_path / "report.html"
    # The probe is the test's own; the page itself has no script.
    file.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    seen = json.loads(title.replace("&quot;", '"'))
    assert seen == {"charts": [[True, True], [True, True]], "wide": False, "requests": 0, "text": True}
