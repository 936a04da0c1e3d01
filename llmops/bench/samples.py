"""From raw records to the numbers of each request, one at a time."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from llmops.bench.decode import Answer, TokenSource, decode_stream, decode_whole, error_detail
from llmops.bench.spool import Record
from llmops.bench.wire import Api

_MS: Final = 1e6


@dataclass(slots=True)
class Sample:
    """One request. Times in ms from its own start; None where there is none.

    Attributes:
        at_ns: Its start on the monotonic clock: the intended send in an open loop.
        lateness_ms: Send minus intended send.
        ttft_ms: First token of any kind.
        ttft_sent_ms: The same from the real send; differs from ``ttft_ms`` in an open loop only.
        ttft_visible_ms: First visible text or tool call.
        tpot_ms: Time per token after the first event's, within this request.
        e2e_ms: Last token. What comes after it (usage, ``[DONE]``) is not latency.
        stream_end_ms: End of the HTTP answer.
        error: Stable word; None when the answer is whole.
    """

    number: int
    conversation: int
    turn: int
    at_ns: int
    sent_ns: int
    end_ns: int
    status: int
    measured: bool
    retries: int
    words: int
    asked_tokens: int
    lateness_ms: float = 0.0
    ttft_ms: float | None = None
    ttft_sent_ms: float | None = None
    ttft_visible_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    stream_end_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int = 0
    events: int = 0
    source: TokenSource = "none"
    mismatch: bool = False
    finish: str | None = None
    error: str | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the answer is whole."""
        return self.error is None


@dataclass(slots=True)
class Samples:
    """All requests of one level.

    Attributes:
        gaps_ms: Time between tokens over all whole answers, each gap on its own; never a mean per request.
        gap_owner: Index into ``rows`` of each gap.
        chunk_gaps_ms: Time between token events as they arrived; differs from ``gaps_ms`` where events bundle tokens.
        token_at: Arrival (ns) and token count of every token event, for throughput over time.
    """

    rows: list[Sample] = field(default_factory=list)
    gaps_ms: array[float] = field(default_factory=lambda: array("d"))
    gap_owner: array[int] = field(default_factory=lambda: array("l"))
    chunk_gaps_ms: array[float] = field(default_factory=lambda: array("d"))
    token_at_ns: array[int] = field(default_factory=lambda: array("q"))
    token_counts: array[float] = field(default_factory=lambda: array("d"))

    @property
    def measured(self) -> list[Sample]:
        """Rows of the measured window."""
        return [row for row in self.rows if row.measured]

    @property
    def ok(self) -> list[Sample]:
        """Whole answers of the measured window."""
        return [row for row in self.rows if row.measured and row.ok]

    def errors(self) -> dict[str, int]:
        """Failures by kind."""
        return dict(Counter(row.error for row in self.measured if row.error is not None).most_common())

    def add(self, sample: Sample, answer: Answer | None) -> None:
        """Fold in one request; its gaps count only when it is whole and measured."""
        self.rows.append(sample)
        if answer is None or not sample.ok:
            return
        scale = _tokens_per_event(answer)
        counts = [tokens * scale for tokens in answer.event_tokens]
        self.token_at_ns.extend(answer.event_ns)
        self.token_counts.extend(counts)
        if not sample.measured:
            return
        owner = len(self.rows) - 1
        for previous, now, tokens in zip(answer.event_ns, answer.event_ns[1:], counts[1:], strict=False):
            gap = (now - previous) / _MS
            self.chunk_gaps_ms.append(gap)
            # An event of k tokens is k gaps of a k-th: the tokens themselves have no times of their own.
            share = max(1, round(tokens))
            self.gaps_ms.extend([gap / max(tokens, 1e-9)] * share)
            self.gap_owner.extend([owner] * share)


def collect(records: Iterable[Record], api: Api, *, stream: bool = True) -> Iterator[tuple[Sample, Answer | None]]:
    """Read each record into its numbers."""
    for record in records:
        answer = _decode(record, api, stream)
        yield _sample(record, answer), answer


def _decode(record: Record, api: Api, stream: bool) -> Answer | None:
    if record.error or record.status != 200:
        return None
    pieces, stamps = record.pieces()
    return decode_stream(api, pieces, stamps) if stream else decode_whole(api, record.body, record.end_ns)


def _sample(record: Record, answer: Answer | None) -> Sample:
    sample = Sample(
        number=record.number, conversation=record.conversation, turn=record.turn, at_ns=record.start_ns,
        sent_ns=record.sent_ns, end_ns=record.end_ns, status=record.status, measured=record.measured,
        retries=record.retries, words=record.words, asked_tokens=record.asked_tokens,
    )  # fmt: skip
    sample.lateness_ms = max(0, record.sent_ns - record.due_ns) / _MS if record.sent_ns else 0.0
    if answer is None:
        sample.error = record.error or f"http-{record.status}"
        sample.detail = record.detail or error_detail(record.body)
        return sample
    sample.error, sample.detail, sample.finish = answer.error, answer.detail, answer.finish
    sample.input_tokens, sample.output_tokens = answer.input_tokens, answer.output_tokens
    sample.source, sample.mismatch, sample.events = answer.source, answer.mismatch, len(answer.event_ns)
    sample.stream_end_ms = (record.end_ns - record.start_ns) / _MS
    if answer.event_ns:
        first, last = answer.event_ns[0], answer.event_ns[-1]
        sample.ttft_ms = (first - record.start_ns) / _MS
        sample.ttft_sent_ms = (first - record.sent_ns) / _MS
        sample.e2e_ms = (last - record.start_ns) / _MS
        after_first = (sum(answer.event_tokens) - answer.event_tokens[0]) * _tokens_per_event(answer)
        if after_first > 0 and last > first:
            sample.tpot_ms = (last - first) / _MS / after_first
    if answer.visible_ns is not None:
        sample.ttft_visible_ms = (answer.visible_ns - record.start_ns) / _MS
    return sample


def _tokens_per_event(answer: Answer) -> float:
    """1, or the mean when the final usage says more tokens than the events showed one by one."""
    seen = sum(answer.event_tokens)
    return answer.output_tokens / seen if answer.mismatch and seen and answer.output_tokens > seen else 1.0
