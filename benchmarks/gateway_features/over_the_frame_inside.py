"""CPU a request that this issue's features add to the request's way, inside one process, bare and full in turn.

    python benchmarks/gateway_features/over_the_frame_inside.py [--bursts 60]

The whole way from ``serve`` to its settlement, with an upstream that answers at once; bursts of a few milliseconds
alternate between a site without callers, books and guard and sites with them, so that whatever else the machine does
meets all of them alike. What the ledger's thread does for a row is measured apart and added.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))

import msgspec
from bench_parts import ANSWER, BODY
from over_the_frame import FORMS

from llmops.gateway.access.callers import CallerDatabase, CallerLimits
from llmops.gateway.config import load
from llmops.gateway.exchange import Exchange
from llmops.gateway.reply import Request, marked_of
from llmops.gateway.request import serve
from llmops.gateway.site import Site
from llmops.gateway.surfaces import CHAT

BURST = 200


class Nowhere:
    """A reply that nobody reads."""

    gone = False
    task = on_gone = on_pause = on_resume = None

    def __init__(self) -> None:
        self.status = 0

    def whole(self, status: int, _headers: bytes, _body: bytes) -> None:
        self.status = status

    def settled(self) -> None:
        pass


async def burst(site: Site, headers: list[tuple[bytes, bytes]]) -> float:
    """Microseconds of CPU a request, of this thread."""
    began = time.thread_time_ns()
    for _ in range(BURST):
        reply = Nowhere()
        await serve(
            site,
            Request(
                CHAT, headers, marked_of(headers), BODY.encode(), client="127.0.0.1", started_ns=time.monotonic_ns()
            ),
            reply,
        )
    took = (time.thread_time_ns() - began) / 1000 / BURST
    assert reply.status == 200, reply.status
    return took


async def measure(directory: Path, bursts: int) -> None:
    limits = CallerLimits(100_000_000, 100_000_000_000, 100_000)
    with CallerDatabase(directory / "callers.sqlite", create=True) as database:
        key = database.add("ci", tenant="acme", team="search", limits=limits)
    headers = [(b"host", b"x"), (b"content-type", b"application/json"), (b"authorization", b"Bearer " + key.encode())]
    sites = {}
    for number, (form, text) in enumerate(FORMS.items()):
        path = directory / f"{number}.yaml"
        path.write_text(text.format(port=number + 1, up=9))
        sites[form] = site = Site(load(path))
        for provider in site.providers.values():
            provider._pool = Answering()  # noqa: SLF001 - no connection is opened
    table: dict[str, list[float]] = {form: [] for form in sites}
    yards = []
    for number in range(bursts + 2):
        yards.append(yardstick())
        for form, site in sites.items():
            took = await burst(site, headers)
            if number > 1:
                table[form].append(took)
    rows_us = flushed(sites["everything"])
    for form, values in table.items():
        added = statistics.median(a - b for a, b in zip(values, table["frame"], strict=True))
        best = min(values) - min(table["frame"])
        print(
            f"{form:16} {statistics.median(values):6.2f} us a request on the loop's thread, "
            f"{added:+6.2f} over the frame (best bursts {best:+6.2f})"
        )
    full = statistics.median(a - b for a, b in zip(table["everything"], table["frame"], strict=True))
    yard = statistics.median(yards)
    print(
        f"yardstick (a msgspec round trip of the request): {yard:.2f} us; everything is {(full + rows_us) / yard:.0f} of it"
    )
    print(f"the ledger's thread {rows_us:.2f} us a row: {full + rows_us:.2f} us over the frame together")
    for site in sites.values():
        if site.account is not None:
            site.account.close()


def flushed(site: Site) -> float:
    """What moving a row into the database takes."""
    account = site.account
    assert account is not None
    account.ledger.flush()
    return statistics.median(one_flush(account) for _ in range(5))


def one_flush(account: object) -> float:
    from llmops.gateway.money import Outcome, Payer, Purchase
    from llmops.prices import Usage

    buy = Purchase("bench", "openai", "gpt-4o")
    for number in range(2000):
        held = account.reserve(f"f{time.monotonic_ns():016x}{number:04x}", Payer("acme", "search", "ci"), buy, 400, 50)
        account.settle(held, Usage(60, 50), Outcome(200, 1.0))
    began = time.thread_time_ns()
    account.ledger.flush()
    return (time.thread_time_ns() - began) / 1000 / 2000


def yardstick() -> float:
    """A fixed piece of work, for comparing runs on machines that are busy with other things."""
    decode, body = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode, BODY.encode()
    began = time.thread_time_ns()
    for _ in range(10 * BURST):
        msgspec.json.encode(decode(body))
    return (time.thread_time_ns() - began) / 1000 / BURST / 10


class Answering:
    """A pool whose exchanges are over when they begin."""

    def send_now(self, *_args: object) -> Exchange:
        made = Exchange(None, b"", 0)
        made.status, made.ended, made.chunks = 200, True, [ANSWER.encode()]
        return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bursts", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(Path(name), options.bursts))


if __name__ == "__main__":
    main()
