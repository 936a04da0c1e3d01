"""Whatever bytes a server sends, in whatever pieces: one ending at most, no exception, nothing after the ending."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.http1 import Connection, Limits, Origin

ORIGIN = Origin("http", "h", 80)
WIRES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall the rest",
    b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n",
)


class Transport:
    """Stands in for a socket, so that thousands of cases run in a second."""

    def __init__(self):
        self.aborted = False

    def get_extra_info(self, _name):
        return None

    def is_closing(self):
        return self.aborted

    def get_write_buffer_size(self):
        return 0

    def write(self, _data):
        assert not self.aborted

    def abort(self):
        self.aborted = True

    close = abort


class Watcher:
    def __init__(self):
        self.events = []

    def head(self, status, headers, at_ns):
        assert 200 <= status <= 999
        self.events.append("head")

    def body(self, data, at_ns):
        assert data
        self.events.append("body")

    def end(self, at_ns):
        self.events.append("end")

    def fail(self, error):
        self.events.append("fail")

    def check(self):
        endings = [event for event in self.events if event in ("end", "fail")]
        assert len(endings) <= 1
        if endings:
            assert self.events[-1] == endings[0]
        if self.events and self.events[0] != "fail":
            assert self.events[0] == "head"
            assert self.events.count("head") == 1


@st.composite
def damaged(draw):
    """A good answer, some bytes of it changed, cut into pieces."""
    wire = bytearray(draw(st.sampled_from(WIRES)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(wire) - 1))
        how = draw(st.integers(0, 2))
        if how == 0:
            wire[place] = draw(st.integers(0, 255))
        elif how == 1:
            wire[place:place] = draw(st.binary(max_size=6))
        else:
            del wire[place : place + 3]
        if not wire:
            wire = bytearray(b"x")
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    edges = [0, *cuts, len(wire)]
    return [bytes(wire[a:b]) for a, b in itertools.pairwise(edges) if a < b]


@settings(max_examples=400, deadline=None)
@given(pieces=damaged(), lost=st.booleans(), reset=st.booleans())
def test_damaged_answers_end_once(pieces, lost, reset):
    async def go():
        connection, transport, watcher = Connection(ORIGIN, Limits(max_head_bytes=4096)), Transport(), Watcher()
        connection.connection_made(transport)
        connection.send(b"GET / HTTP/1.1\r\n\r\n", watcher)
        for piece in pieces:
            if not transport.aborted:
                connection.data_received(piece)
        if lost or transport.aborted:
            connection.connection_lost(ConnectionResetError() if reset else None)
            assert watcher.events[-1] in ("end", "fail")
            connection.abort()  # late calls of the owner do no harm
            connection.close()
        watcher.check()
        if watcher.events[-1:] == ["fail"]:
            assert connection.closed
            assert not connection.reusable
        if connection.reusable:
            assert watcher.events[-1] == "end"
            assert connection.served == 1

    asyncio.run(go())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
def test_noise_is_never_an_answer(pieces):
    async def go():
        connection, watcher = Connection(ORIGIN), Watcher()
        connection.connection_made(Transport())
        connection.send(b"GET / HTTP/1.1\r\n\r\n", watcher)
        for piece in pieces:
            if not connection.closed:
                connection.data_received(piece)
        connection.connection_lost(None)
        assert watcher.events == ["fail"]

    asyncio.run(go())
