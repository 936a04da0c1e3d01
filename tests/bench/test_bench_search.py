"""The search for the most load, against a server of which the capacity is known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.bench import search
from llmops.progress import Silent


def run(holds, *, rate=None, start=1, valid=lambda _call: True):
    """Search with a level that holds where ``holds(step, how often tried)``."""
    tried = []

    def measure(_session, step):
        tried.append(step)
        ok = holds(step, tried.count(step))
        return SimpleNamespace(
            verdict="PASS" if ok else "FAIL",
            load=f"{step:g}",
            validity=SimpleNamespace(valid=valid(len(tried))),
            metrics=SimpleNamespace(ttft_ms=None, itl_ms=None, output_tokens_per_s=0.0),
            counts=SimpleNamespace(failed=0),
        )

    spec = SimpleNamespace(concurrency=start, rate=rate)
    session = SimpleNamespace(spec=spec, interrupted=None, progress=Silent())
    levels, index, words = search.find_max(session, measure)
    return tried, tried[index] if levels else None, words


@given(capacity=st.integers(1, 500))
def test_it_finds_the_capacity_within_a_tenth(capacity):
    tried, best, words = run(lambda step, _n: step <= capacity)
    assert best <= capacity
    assert best >= capacity * 0.9 - 1
    assert tried.count(best) >= search.CONFIRMATIONS
    assert "confirmed 3 times" in words


@given(capacity=st.floats(0.7, 300))
def test_rates_too(capacity):
    _, best, _ = run(lambda step, _n: step <= capacity, rate=0.5)
    assert capacity * 0.85 <= best <= capacity


def test_a_level_that_does_not_confirm_is_given_up():
    # 8 passes once by luck; the true capacity is 5.
    _, best, _ = run(lambda step, n: step <= 5 or (step == 8 and n == 1))
    assert best in (4, 5)


def test_nothing_holds():
    _, _, words = run(lambda _step, _n: False)
    assert words == "no load from 1 users on holds every SLO"


def test_an_invalid_run_is_measured_again_and_not_taken_for_a_failure():
    tried, best, _ = run(lambda step, n: (step != 2 or n > 1) and step < 50, valid=lambda call: call != 2)
    assert tried[:3] == [1, 2, 2]
    assert best > 2


@pytest.mark.parametrize("start", [3, 10])
def test_the_search_begins_where_it_is_told(start):
    tried, _, _ = run(lambda step, _n: step <= 50, start=start)
    assert tried[0] == start
