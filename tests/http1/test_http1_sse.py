"""The event splitter: whatever the packets, the same events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.http1 import EventSplitter, EventTooLargeError, event_data, event_type

STREAM = 'data: {"a": "日本語 🎉"}\n\n: keep-alive\n\nevent: ping\ndata: 1\ndata:2\nid: 7\n\ndata\n\ndata: [DONE]\n\n'
EXPECTED = ['{"a": "日本語 🎉"}'.encode(), None, b"1\n2", b"", b"[DONE]"]


def feed_all(pieces):
    splitter = EventSplitter()
    return [event for piece in pieces for event in splitter.feed(piece)], splitter


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(cuts=st.lists(st.integers(0, 140), max_size=12))
def test_events_do_not_depend_on_packets_or_line_ends(end, cuts):
    wire = STREAM.replace("\n", end).encode()
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    blocks, splitter = feed_all([wire[a:b] for a, b in itertools.pairwise(edges)])
    assert [event_data(block) for block in blocks] == EXPECTED
    assert splitter.rest == b""


@given(
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=1, max_size=30),
    blanks=st.lists(st.booleans(), min_size=30, max_size=30),
    cuts=st.lists(st.integers(0, 200), max_size=20),
)
def test_mixed_line_ends_agree_with_a_line_reader(ends, blanks, cuts):
    lines = [b"" if blank else b"data: %d" % index for index, (_, blank) in enumerate(zip(ends, blanks, strict=False))]
    wire, adjacent = b"", False
    for line, end in zip(lines, ends, strict=True):
        if wire.endswith(b"\r") and not line and end == b"\n":
            adjacent = True  # "\r" + "\n" is one line end, not two
        wire += line + end
    if adjacent:
        return
    expected, current = [], []
    for line in lines:
        if line:
            current.append(line[6:])
        elif current:
            expected.append(b"\n".join(current))
            current = []
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    blocks, _ = feed_all([wire[a:b] for a, b in itertools.pairwise(edges)])
    assert [event_data(block) for block in blocks] == expected


def test_blocks_are_the_bytes_of_the_stream():
    wire = b"event: a\ndata: 1\n\ndata: 2\n\n"
    blocks, _ = feed_all([wire])
    assert b"".join(block + b"\n\n" for block in blocks) == wire
    assert event_type(blocks[0]) == b"a"
    assert event_type(blocks[1]) is None


def test_byte_order_mark_and_what_was_cut_off():
    blocks, splitter = feed_all([b"\xef", b"\xbb", b"\xbfdata: 1\n\ndata: 2\n"])
    assert [event_data(block) for block in blocks] == [b"1"]
    assert splitter.rest == b"data: 2\n"


def test_an_endless_event_is_refused():
    splitter = EventSplitter(max_event_bytes=1000)
    for _ in range(90):
        splitter.feed(b"data: xxxxx")
    with pytest.raises(EventTooLargeError):
        splitter.feed(b"x" * 11)


def test_a_long_event_in_many_packets_is_not_quadratic():
    blocks, _ = feed_all([b"data: ", *[b"x" * 1000] * 2000, b"\n\n"])
    assert len(event_data(blocks[0])) == 2_000_000
