"""Makes the requests of a plan, ahead of their time where that is possible."""

from __future__ import annotations

from collections import deque
from typing import Final

from llmops.bench.decode import decode_stream, decode_whole
from llmops.bench.plan import LoadPlan
from llmops.bench.prompts import Prompts
from llmops.bench.stream import Finished, Stream
from llmops.http1 import with_body

READY_MAX: Final = 1024


class Maker:
    """The conversations of a plan, in order; ``finished`` is told of the end of each request."""

    def __init__(self, plan: LoadPlan, finished: Finished) -> None:
        self.begun = 0  # conversations handed out
        self._plan, self._finished = plan, finished
        self._prompts = Prompts(plan.prompts)
        self._head = plan.endpoint.head()
        self._ready: deque[Stream] = deque()

    def prepare(self) -> None:
        """Make the next conversation's request, unless enough are ready or it was the last."""
        plan, index = self._plan, self.begun + len(self._ready)
        limit = len(plan.due_ns) if plan.due_ns is not None else plan.requests
        if len(self._ready) >= READY_MAX or (limit is not None and index >= limit):
            return
        stream = Stream(self._finished, plan.first + index * plan.step, 0)
        row = plan.trace[index] if plan.trace else None
        turn = self._prompts.turn(stream.conversation, shrink=plan.shrink if index % 2 else 1.0, row=row)
        stream.words, stream.output_tokens = turn.words, turn.output_tokens
        stream.messages = self._prompts.first_messages(turn)
        stream.request = with_body(self._head, plan.endpoint.body(stream.messages, turn.output_tokens))
        self._ready.append(stream)

    def next(self) -> Stream:
        """The next conversation's first request."""
        if not self._ready:
            self.prepare()
        self.begun += 1
        return self._ready.popleft()

    def following(self, stream: Stream) -> Stream | None:
        """The next request of the same conversation, which quotes the answer; None when the conversation is over."""
        if stream.turn + 1 >= self._prompts.turns_of(stream.conversation):
            return None
        endpoint = self._plan.endpoint
        if endpoint.stream:
            answer = decode_stream(endpoint.api, stream.parts, stream.stamps, keep_text=True)
        else:
            answer = decode_whole(endpoint.api, b"".join(stream.parts), 0)
        if answer.error is not None:
            return None
        following = Stream(self._finished, stream.conversation, stream.turn + 1)
        turn = self._prompts.turn(stream.conversation, following.turn)
        following.words, following.output_tokens = 0, turn.output_tokens
        following.messages = [
            *stream.messages,
            {"role": "assistant", "content": answer.text},
            {"role": "user", "content": turn.text},
        ]
        following.request = with_body(self._head, endpoint.body(following.messages, turn.output_tokens))
        return following
