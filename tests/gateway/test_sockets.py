"""A listening socket that ends resets nobody."""

from __future__ import annotations

import contextlib
import socket

import pytest

from llmops.gateway.sockets import has_unread, listen, stop_handshakes


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_handshake_begins_and_the_one_before_stands(host):
    with contextlib.closing(listen(host, 0)) as sock:
        sock.listen(8)
        where = sock.getsockname()[:2]
        with socket.create_connection(where, timeout=10) as before:
            stop_handshakes(sock)
            with pytest.raises(TimeoutError):
                socket.create_connection(where, timeout=0.3)
            before.sendall(b"hello")
            taken, _ = sock.accept()
            with taken:
                taken.settimeout(10)
                assert taken.recv(5) == b"hello"
                taken.sendall(b"welcome")
                assert before.recv(7) == b"welcome"
            with pytest.raises(BlockingIOError):
                sock.accept()


def test_unread_bytes_and_an_end_are_seen():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not has_unread(ours.fileno())
        theirs.sendall(b"x")
        assert has_unread(ours.fileno())
        ours.recv(1)
        assert not has_unread(ours.fileno())
        theirs.close()
        assert has_unread(ours.fileno())
