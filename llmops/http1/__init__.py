"""The HTTP/1.1 client connection and the server-sent-event splitter that the bench and the gateway share.

``connect`` opens a ``Connection``; ``Connection.send`` starts one exchange, whose answer arrives at a ``Receiver`` through
callbacks that carry the monotonic nanosecond at which the bytes reached this process. There is no pool, no queue and no
JSON here: the caller owns those.
"""

from llmops.http1.connection import Connection
from llmops.http1.errors import TransferError, TransferKind
from llmops.http1.opening import connect
from llmops.http1.receiver import Limits, Receiver
from llmops.http1.request import Origin, request_head, with_body
from llmops.http1.sse import EventSplitter, EventTooLargeError, event_data, event_type
from llmops.http1.sweep import Sweep, Timeouts

__all__ = [
    "Connection",
    "EventSplitter",
    "EventTooLargeError",
    "Limits",
    "Origin",
    "Receiver",
    "Sweep",
    "Timeouts",
    "TransferError",
    "TransferKind",
    "connect",
    "event_data",
    "event_type",
    "request_head",
    "with_body",
]
