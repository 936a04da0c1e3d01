"""One measurement from beginning to end: warm up, measure each level, judge."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llmops.bench import compare, judge, live, probe, workers
from llmops.bench.drive import drive
from llmops.bench.energy import Meter, meter
from llmops.bench.outputs import RawWriter
from llmops.bench.plan import LoadFacts, LoadPlan
from llmops.bench.prompts import DEFAULT_LENGTHS, Lengths, PromptPlan, read_dataset
from llmops.bench.report import BenchReport, Level
from llmops.bench.samples import Samples, collect
from llmops.bench.schedule import Arrival, arrivals, read_trace
from llmops.bench.spec import BenchSpec
from llmops.bench.spool import read
from llmops.bench.wire import Endpoint
from llmops.errors import OutsideError, UsageError
from llmops.http1 import Timeouts
from llmops.progress import Progress

DEFAULT_REQUESTS: Final = 100
_WAVES: Final = 3
_WARMUP_CONVERSATION: Final = 10_000_000  # numbers of their own, so that a warm-up never sends a measured prompt


@dataclass(slots=True)
class Session:
    """What the levels of one measurement share."""

    spec: BenchSpec
    endpoint: Endpoint
    lengths: Lengths
    directory: Path
    progress: Progress
    warmed: int = 0
    service_s: float = 0.0
    next_conversation: int = 0
    interrupted: int | None = None
    raw: RawWriter | None = None
    meter: Meter | None = None
    energy: dict[str, Any] | None = None
    titled: bool = False


def bench(spec: BenchSpec, progress: Progress) -> BenchReport:
    """Measure an endpoint.

    Raises:
        UsageError: An input file is wrong, or the server has several models and none is named.
        OutsideError: The server cannot be reached, or answers nothing but errors before the measurement.
        AccessError: The API key is missing or refused.
    """
    baseline = compare.read_report(spec.baseline) if spec.baseline else None
    with open_session(spec, progress) as session:
        if spec.find_max:
            from llmops.bench.search import find_max

            begin_levels(session, "search for the most load")
            levels, chosen, found = find_max(session, measure_level)
        else:
            levels, chosen, found = _levels(session), -1, None
        return judge.report(session, levels, chosen % len(levels), found, baseline)


@contextmanager
def open_session(spec: BenchSpec, progress: Progress) -> Iterator[Session]:
    """Check the files, find the model, warm up."""
    progress.phase(f"connect to {spec.url}")
    if spec.dataset is not None:
        read_dataset(spec.dataset)
    if spec.trace is not None:
        read_trace(spec.trace, speed=spec.trace_speed)
    endpoint = endpoint_of(spec)
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as directory:
        session = Session(spec, endpoint, DEFAULT_LENGTHS[spec.language], Path(directory), progress)
        session.meter = meter(spec.url) if spec.energy else None
        if session.meter is not None:
            session.meter.measure_idle()
        _warm_up(session)
        session.raw = RawWriter(spec.raw) if spec.raw else None
        try:
            yield session
            if session.raw is not None:
                session.raw.finish()
        finally:
            if session.raw is not None:
                session.raw.discard()


def endpoint_of(spec: BenchSpec) -> Endpoint:
    """The endpoint of a spec, its model asked for where it is not named."""
    extra = dict(spec.extra_body)
    if spec.ignore_eos:
        extra.setdefault("ignore_eos", True)
    headers = tuple((name.strip(), value.strip()) for name, _, value in (h.partition(":") for h in spec.headers))
    endpoint = Endpoint(spec.url, spec.api, spec.model or "", spec.api_key_env, headers, extra, spec.stream)
    endpoint.head()  # refuses a wrong URL, header or key before anything is sent
    return endpoint if spec.model else replace(endpoint, model=probe.only_model(endpoint))


def _levels(session: Session) -> list[Level]:
    spec = session.spec
    found = []
    steps: Sequence[float | None] = spec.sweep or (None,)
    if len(steps) > 1:
        begin_levels(session, f"{len(steps)} levels")
    for step in steps:
        level = measure_level(session, step)
        found.append(level)
        if len(steps) > 1:
            session.progress.note(live.row(level))
        if session.interrupted is not None:
            break
    return found


def begin_levels(session: Session, title: str) -> None:
    """From here on each level is a row under one title."""
    session.progress.phase(title)
    session.titled = True


# One level


def measure_level(session: Session, step: float | None = None) -> Level:
    """Run one level of the load and read what came back."""
    plan = level_plan(session, step)
    facts, samples = run_plan(session, plan, live.load_words(session.spec, plan, step))
    return judge.level(session, plan, step, facts, samples)


def level_plan(session: Session, step: float | None) -> LoadPlan:
    """The plan of one level; ``step`` replaces the concurrency, or the rate of an open loop."""
    spec = session.spec
    concurrency: int | None = spec.concurrency
    rate = spec.rate
    if step is not None:
        concurrency, rate = (concurrency, step) if spec.open_loop else (int(step), None)
    requests = spec.requests if spec.duration or spec.requests else DEFAULT_REQUESTS
    if spec.find_max and requests is not None and not spec.open_loop:
        requests = max(requests, _WAVES * (concurrency or 1))  # fewer would not even be that many users
    base = LoadPlan(
        endpoint=session.endpoint,
        prompts=_prompt_plan(session),
        first=session.next_conversation,
        requests=requests,
        duration_s=spec.duration,
        ramp_s=spec.ramp or 0.0,
        think_s=spec.think,
        cold=spec.cold,
        timeouts=Timeouts(first_byte_s=spec.timeout, idle_s=spec.timeout, total_s=spec.timeout),
    )
    if not spec.open_loop:
        users = concurrency or 1
        first_wave = users if base.requests is None else min(users, base.requests)
        return replace(base, concurrency=users, preopen=first_wave)
    if spec.trace is not None:
        rows = tuple(read_trace(spec.trace, speed=spec.trace_speed))
        due = tuple(row.at_ns for row in rows)
        return _open(replace(base, trace=rows, requests=None), due, concurrency, session)
    assert rate is not None
    due = arrivals(
        rate,
        Arrival.parse(spec.arrival),
        seed=spec.seed + session.next_conversation,
        requests=base.requests,
        duration_s=spec.duration,
        ramp_s=base.ramp_s,
    )
    return _open(base, due, concurrency, session)


def _open(plan: LoadPlan, due: tuple[int, ...], cap: int | None, session: Session) -> LoadPlan:
    """An open loop, with connections for what will probably be under way at once."""
    span_s = max(1e-9, (due[-1] - due[0]) / 1e9)
    expected = len(due) / span_s * session.service_s
    preopen = min(len(due), cap or 1024, 4 + math.ceil(expected + 3 * math.sqrt(expected)))
    return replace(plan, loop="open", due_ns=due, concurrency=cap, preopen=preopen)


def _prompt_plan(session: Session) -> PromptPlan:
    spec = session.spec
    return PromptPlan(
        seed=spec.seed,
        language=spec.language,
        input_tokens=spec.input_tokens,
        output_tokens=spec.output_tokens,
        prefix_groups=spec.prefix_groups,
        prefix_tokens=spec.prefix_tokens,
        turns=spec.turns,
        lengths=session.lengths,
        dataset=str(spec.dataset) if spec.dataset else None,
    )


def run_plan(
    session: Session, plan: LoadPlan, words: str, processes: int | None = None
) -> tuple[list[LoadFacts], Samples]:
    """Run a plan and read its spool."""
    watch = live.Watch(session.progress, plan, words, phase=not session.titled)
    count = processes or workers.worker_count(plan, session.spec.workers, session.service_s)
    spools = [session.directory / f"{plan.first}-{place}.spool" for place in range(count)]
    if session.meter is not None:
        session.meter.begin()
    if count == 1:
        facts = [drive(plan, spools[0], watch.tick)]
    else:
        facts = workers.drive_many(workers.slices(plan, count), spools, watch.tick)
    session.interrupted = next((fact.interrupted for fact in facts if fact.interrupted), session.interrupted)
    samples = Samples()
    for spool in spools:
        for sample, answer in collect(read(spool), plan.endpoint.api, stream=plan.endpoint.stream):
            samples.add(sample, answer)
            if session.raw is not None:
                session.raw.add(words, sample, answer)
        spool.unlink()
    if session.meter is not None:
        session.energy = session.meter.end(sum(row.output_tokens for row in samples.ok))
    session.next_conversation += sum(fact.sent for fact in facts) + 1
    return facts, samples


# Warm-up


def _warm_up(session: Session) -> None:
    spec = session.spec
    users = min(8, spec.concurrency or 2)
    count = spec.warmup if spec.warmup is not None else max(2, users)
    if count == 0:
        return
    plan = replace(
        level_plan(session, spec.sweep[0] if spec.sweep else None if not spec.find_max else 1),
        loop="closed", concurrency=min(users, count), preopen=min(users, count), due_ns=None, trace=(), requests=count,
        duration_s=None, ramp_s=0.0, first=_WARMUP_CONVERSATION, shrink=0.5, cold=False,
    )  # fmt: skip
    plan = replace(plan, prompts=replace(plan.prompts, turns=1))
    conversation = session.next_conversation
    _, samples = run_plan(session, plan, f"warm up with {count} request{'s' * (count > 1)}", 1)
    session.next_conversation = conversation
    if session.interrupted is not None:
        raise KeyboardInterrupt
    _learn(session, samples, count)


def _learn(session: Session, samples: Samples, count: int) -> None:
    ok = samples.ok
    if not ok:
        raise _all_failed(samples, session.endpoint)
    session.warmed = count
    session.service_s = max(row.stream_end_ms or 0.0 for row in ok) / 1000
    seen = [(row.words, row.input_tokens) for row in ok if row.input_tokens and row.words]
    learnt = Lengths.learn(seen) if session.spec.dataset is None else None
    if learnt is not None:
        session.lengths = learnt


def _all_failed(samples: Samples, endpoint: Endpoint) -> Exception:
    """Nothing works yet: say what the server says, instead of measuring it."""
    from llmops.errors import AccessError

    kinds = Counter(row.error for row in samples.rows)
    kind = kinds.most_common(1)[0][0] or ""
    detail = next((row.detail for row in samples.rows if row.error == kind), "")
    message = f"the server answers no request: {kind}" + (f": {detail}" if detail else "")
    if kind in ("http-401", "http-403"):
        return AccessError(message, "name the variable that holds the key: --api-key-env NAME")
    if kind == "http-404":
        return OutsideError(message, f"check the URL and --model (sent: {endpoint.model!r})")
    if kind in ("http-400", "http-422"):
        return UsageError(message, "a field may be unknown to this server: see --extra-body")
    return OutsideError(message, "try one request by hand, or llmops diagnose on the server's log")
