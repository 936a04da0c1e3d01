"""Two measurements side by side: is the second slower, is it not, or can these runs not tell?

A ratio is a regression (FAIL) when its interval lies above 1 and its middle is at least ``max_regression``; it is PASS
when the interval's upper end stays below ``max_regression``; else INCONCLUSIVE, with the rounds still needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from llmops.bench import stats
from llmops.bench.blocks import METRICS, log_means
from llmops.bench.slo import Verdict
from llmops.errors import UsageError
from llmops.findings import Finding

GATED: Final = ("ttft_ms", "tpot_ms")
_MOST_TIMES: Final = 1000  # beyond it the two are simply too close to the limit
_LABELS: Final = {"ttft_ms": "TTFT p50", "tpot_ms": "TPOT p50", "e2e_ms": "e2e p50"}


@dataclass(frozen=True, slots=True)
class Change:
    """One metric, new over old.

    Attributes:
        ratio: 1.10 is 10 % slower.
        interval: 95 %, None where the data allow none.
        gated: Whether it counts into the verdict. End-to-end time does not: it follows the answers' lengths.
        needed: Rounds after which a verdict can be expected.
        times: The same for saved reports: how many times the requests of each.
    """

    metric: str
    old: float
    new: float
    ratio: float
    interval: tuple[float, float] | None
    verdict: Verdict
    gated: bool
    needed: int | None = None
    times: int | None = None

    @property
    def words(self) -> str:
        """The change as a sentence."""
        label = _LABELS[self.metric]
        low, high = self.interval or (0.0, 0.0)
        span = (
            f", 95 % interval {low - 1:+.1%} to {high - 1:+.1%}"
            if self.interval
            else ", too little data for an interval"
        )
        needed = f"; needs about {self.needed} rounds" if self.needed else ""
        needed += f"; needs about {self.times} times the requests in both runs" if self.times else ""
        return f"{label} {self.old:.2f} -> {self.new:.2f} ms ({self.ratio - 1:+.1%}{span}){needed}"


def decide(ratio: float, interval: tuple[float, float] | None, max_regression: float) -> Verdict:
    """The verdict on one ratio (see the module)."""
    if interval is None:
        return "INCONCLUSIVE"
    if interval[0] > 1 and ratio >= 1 + max_regression:
        return "FAIL"
    return "PASS" if interval[1] < 1 + max_regression else "INCONCLUSIVE"


def overall(changes: Sequence[Change]) -> Verdict:
    """All gated metrics together."""
    verdicts = {change.verdict for change in changes if change.gated}
    return "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts or not verdicts else "PASS"


def by_blocks(old: dict[str, Any], new: dict[str, Any], max_regression: float) -> tuple[Change, ...]:
    """Compare two runs by their time blocks (Welch's interval of the difference of log medians)."""
    return tuple(
        change
        for name in METRICS
        if (change := _block_change(name, log_means(old, name), log_means(new, name), max_regression)) is not None
    )


def _block_change(name: str, old: list[float], new: list[float], max_regression: float) -> Change | None:
    if not old or not new:
        return None
    middle_old, middle_new = math.fsum(old) / len(old), math.fsum(new) / len(new)
    difference = middle_new - middle_old
    interval = None
    if len(old) >= 3 and len(new) >= 3:
        parts = [_variance(values) / len(values) for values in (old, new)]
        spread = math.sqrt(sum(parts))
        freedom = (
            sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (old, new), strict=True)) if spread else 2
        )
        half = stats.t_quantile(0.975, max(2, int(freedom))) * spread
        interval = (math.exp(difference - half), math.exp(difference + half))
    change = _change(name, (middle_old, middle_new), interval, max_regression)
    if change.verdict != "INCONCLUSIVE" or interval is None:
        return change
    room = abs(math.log1p(max_regression) - difference)
    half = math.log(interval[1] / interval[0]) / 2
    times = (
        math.ceil((half / room) ** 2) if room else _MOST_TIMES + 1
    )  # an interval shrinks with the root of the samples
    return replace(change, times=max(2, times) if times <= _MOST_TIMES else None)


def by_pairs(name: str, pairs: Sequence[tuple[float, float]], max_regression: float) -> Change | None:
    """Compare interleaved runs: Student's interval of the mean log ratio, one observation a pair of neighbours."""
    if not pairs:
        return None
    logs = [math.log(new / old) for old, new in pairs]
    olds = math.fsum(math.log(old) for old, _ in pairs) / len(pairs)
    found = stats.mean_interval(logs)
    interval = (math.exp(found[0]), math.exp(found[1])) if found else None
    change = _change(name, (olds, olds + math.fsum(logs) / len(logs)), interval, max_regression)
    if change.verdict != "INCONCLUSIVE" or len(logs) < 2:
        return change
    return _with_needed(change, logs, max_regression)


def _with_needed(change: Change, logs: list[float], max_regression: float) -> Change:
    room = abs(math.log1p(max_regression) - math.log(change.ratio))
    rounds = len(logs)
    spread = math.sqrt(_variance(logs))
    while rounds < 1000 and stats.t_quantile(0.975, rounds - 1) * spread / math.sqrt(rounds) > room:
        rounds += 1
    return replace(change, needed=-(-rounds // 2) if rounds < 1000 else None)  # a round has two pairs


def _change(
    name: str, logs: tuple[float, float], interval: tuple[float, float] | None, max_regression: float
) -> Change:
    ratio = math.exp(logs[1] - logs[0])
    verdict = decide(ratio, interval, max_regression)
    return Change(name, math.exp(logs[0]), math.exp(logs[1]), ratio, interval, verdict, name in GATED)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def findings(changes: Sequence[Change], what: str) -> list[Finding]:
    """One finding a gated metric."""
    severity = {"PASS": "ok", "FAIL": "error", "INCONCLUSIVE": "warning"}
    return [
        Finding(f"regression-{change.metric.removesuffix('_ms')}", severity[change.verdict], f"{what}: {change.words}")  # type: ignore[arg-type]  # values of Severity
        for change in changes
        if change.gated
    ]


def read_report(path: Path) -> dict[str, Any]:
    """The data of an earlier JSON report.

    Raises:
        UsageError: No such file, or it is not a bench report.
    """
    try:
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "give a file written by --report FILE.json") from None
    except msgspec.DecodeError:
        document = None
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, dict) or "blocks" not in data or "validity" not in data:
        raise UsageError(f"{path} is no report of llmops bench", "give a file written by --report FILE.json")
    return data


def differences(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, ...]:
    """What makes two reports not comparable like for like."""
    return tuple(
        f"{name} differs: {old.get(name)!r} and {new.get(name)!r}"
        for name in ("model", "api", "load", "lengths")
        if old.get(name) != new.get(name)
    )
