"""The statistics against known values, and against simulation where there are none."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.bench import compare, slo, stats
from llmops.bench.metrics import distribution, measure
from llmops.bench.samples import Sample, Samples
from llmops.errors import UsageError


def test_samples_needed():
    assert [stats.samples_needed(share) for share in (0.5, 0.9, 0.95, 0.99, 0.999)] == [7, 44, 90, 459, 4603]


@pytest.mark.parametrize(
    ("k", "n", "p", "value"),
    [(0, 459, 0.01, 0.00992), (2, 10, 0.5, 0.0546875), (5, 10, 0.5, 0.623046875), (50, 1000, 0.05, 0.53753)],
)
def test_binomial(k, n, p, value):
    assert stats.binomial_cdf(k, n, p) == pytest.approx(value, rel=1e-3)


@given(n=st.integers(1, 60), p=st.floats(0.001, 0.999))
def test_binomial_tails_add_up(n, p):
    for k in range(n + 1):
        assert stats.binomial_cdf(k, n, p) + stats.binomial_sf(k + 1, n, p) == pytest.approx(1, abs=1e-9)
        direct = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
        assert stats.binomial_cdf(k, n, p) == pytest.approx(direct, abs=1e-9)


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.7062), (4, 2.7764), (9, 2.2622), (30, 2.0423), (1000, 1.9623)])
def test_student(freedom, value):
    assert stats.t_quantile(0.975, freedom) == pytest.approx(value, rel=1e-4)


def test_rate_interval():
    assert stats.rate_interval(0, 100) == pytest.approx((0.0, 0.03622), abs=1e-4)
    assert stats.rate_interval(10, 100) == pytest.approx((0.0490, 0.1762), abs=1e-4)


def test_percentile_intervals_cover_what_they_claim():
    rng = random.Random(1)
    hits = 0
    for _ in range(400):
        low, high = stats.percentile_interval(sorted(rng.random() for _ in range(120)), 0.9)
        hits += low <= 0.9 <= high
    assert hits >= 0.93 * 400


def test_a_percentile_is_the_order_statistic():
    assert stats.percentile([1, 2, 3, 4], 0.5) == 2
    assert stats.percentile(list(range(1, 101)), 0.99) == 99
    assert stats.percentile([7], 0.99) == 7


def test_percentiles_that_the_samples_cannot_carry_are_named():
    found = distribution(range(120))
    assert found.unsupported == {"p99": "needs 459, has 120"}
    assert distribution(range(459)).unsupported == {}
    # Gaps of few answers are few observations, however many gaps there are.
    assert distribution(range(100_000), independent=50).unsupported == {
        "p95": "needs 90, has 50",
        "p99": "needs 459, has 50",
    }
    assert distribution([]) is None


def rows(ttfts, failed=0):
    samples = Samples()
    for number, ttft in enumerate([*ttfts, *[None] * failed]):
        sample = Sample(number, number, 0, number * 1_000_000, 0, number * 1_000_000 + 1, 200, True, 0, 0, 1)
        sample.ttft_ms = ttft
        sample.error = None if ttft is not None else "cut"
        samples.rows.append(sample)
    return samples


def judged(text, ttfts, failed=0, confidence=0.99):
    samples = rows(ttfts, failed)
    objective = slo.parse(text)
    metrics = measure(samples, (0, 10**9), slo.good_requests(samples, [objective]))
    return slo.judge(objective, samples, metrics, confidence)


def test_p99_needs_459_requests():
    assert judged("ttft.p99<500ms", [100] * 458).verdict == "INCONCLUSIVE"
    assert judged("ttft.p99<500ms", [100] * 458).needed == 459
    assert judged("ttft.p99<500ms", [100] * 459).verdict == "PASS"
    assert judged("ttft.p99<500ms", [100] * 459 + [900]).verdict == "INCONCLUSIVE"
    assert judged("ttft.p99<500ms", [100] * 90 + [900] * 10).verdict == "FAIL"


def test_a_failed_request_is_over_every_limit():
    assert judged("ttft.p90<500ms", [100] * 100).verdict == "PASS"
    assert judged("ttft.p90<500ms", [100] * 70, failed=30).verdict == "FAIL"


def test_shares_rates_and_means():
    assert judged("error_rate<1%", [100] * 459).verdict == "PASS"
    assert judged("error_rate<1%", [100] * 100, failed=10).verdict == "FAIL"
    assert judged("error_rate<1%", [100] * 100).verdict == "INCONCLUSIVE"
    assert judged("goodput>=0.95", [100] * 90).verdict == "PASS"
    assert judged("goodput>=0.95", [100] * 90, failed=30).verdict == "FAIL"
    assert judged("ttft.mean<200ms", [100 + i % 7 for i in range(50)]).verdict == "PASS"
    assert judged("ttft.mean<100ms", [110 + i % 7 for i in range(50)]).verdict == "FAIL"
    assert judged("ttft.max<200ms", [100] * 9 + [300]).verdict == "FAIL"
    assert judged("ttft.p99<1s", []).verdict == "INCONCLUSIVE"


def test_false_verdicts_are_rare():
    """At the limit itself both wrong answers together come at most twice in a hundred."""
    rng = random.Random(2)
    verdicts = [judged("ttft.p90<90ms", [rng.uniform(0, 100) for _ in range(300)]).verdict for _ in range(300)]
    assert verdicts.count("PASS") + verdicts.count("FAIL") <= 12


@pytest.mark.parametrize(
    "text",
    ["ttft<500ms", "ttft.p99<500", "ttft.p99>500ms", "latency.p99<1s", "error_rate<2", "goodput.p50>1%", "", "p99",
     "ttft.p99<1.2.3ms", "request_rate>5ms", "ttft.p97<1s"],
)  # fmt: skip
def test_unknown_metrics_and_units_are_usage_errors(text):
    with pytest.raises(UsageError) as caught:
        slo.parse(text)
    assert caught.value.hint


def test_units():
    assert slo.parse("e2e.p50<=2s").limit == 2000
    assert slo.parse("error_rate<1%").limit == slo.parse("error_rate<0.01").limit == 0.01
    assert slo.parse("output_tokens_per_s>=100").limit == 100


def test_decisions_on_a_ratio():
    assert compare.decide(1.10, (1.04, 1.16), 0.05) == "FAIL"
    assert compare.decide(1.02, (0.99, 1.04), 0.05) == "PASS"
    assert compare.decide(1.02, (1.01, 1.04), 0.05) == "PASS"  # slower for sure, but by less than matters
    assert compare.decide(1.10, (0.95, 1.27), 0.05) == "INCONCLUSIVE"
    assert compare.decide(1.10, None, 0.05) == "INCONCLUSIVE"


def test_rounds_still_needed():
    change = compare.by_pairs("ttft_ms", [(100, 101), (100, 108), (100, 97)], 0.05)
    assert change.verdict == "INCONCLUSIVE"
    assert change.needed > 2
    assert f"needs about {change.needed} rounds" in change.words


def test_pairs_take_out_the_drift_that_both_share():
    drift = [1.0, 1.2, 0.8, 1.3, 0.9]
    change = compare.by_pairs("tpot_ms", [(10 * d, 11 * d) for d in drift], 0.05)
    assert change.verdict == "FAIL"
    assert change.ratio == pytest.approx(1.1)
