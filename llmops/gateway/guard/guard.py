"""The guard of a route: secrets, injection and sizes over raw bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmops.gateway.guard.config import GuardConfig
from llmops.gateway.guard.injection import NOTHING, Judgement, judge_all
from llmops.gateway.guard.looks import UNTRUSTED, Words, may_be_marked, may_have_untrusted
from llmops.gateway.guard.secret_rules import BY_PREFIX, Hit, find, may_have, redact
from llmops.gateway.guard.secret_stream import SecretStream
from llmops.gateway.guard.spans import untrusted_spans
from llmops.gateway.guard.stream_events import StreamEvents
from llmops.units import MIB

if TYPE_CHECKING:
    from llmops.gateway.guard.classifier import Classifier


class Blocked(Exception):  # noqa: N818 - the answer "no", not a failure of the program
    """A request or an answer may not pass.

    Attributes:
        status: 400 for a request, 413 for its size, 502 for an answer.
        code: Stable word for the error body.
        message: For the caller: what kind of thing was found, never the thing.
        found: The rules, for metrics and the log.
    """

    def __init__(self, status: int, code: str, message: str, found: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.found = found


@dataclass(frozen=True)
class Verdict:
    """What a body looks like.

    Attributes:
        body: To be sent on; the same object where nothing was redacted.
        found: Names of the rules that matched.
        score: The injection score, 0 to 1.
        header: Value for the header ``x-llmops-guard``, or empty.
    """

    body: bytes
    found: tuple[str, ...] = ()
    score: float = 0.0
    header: str = ""


class Guard:
    """Stateless; one for each distinct configuration."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._max_bytes = int(config.max_prompt_mib * MIB)
        # What every request asks for, out of the pydantic model, whose attributes cost ten times as much.
        self._secrets_in, self._secrets_out = config.secrets_in != "off", config.secrets_out != "off"
        self._injection = config.injection != "off"
        # One look for both.
        self._words_in = Words((*(BY_PREFIX if self._secrets_in else ()), *(UNTRUSTED if self._injection else ())))
        self._max_messages = config.max_messages
        self._classifier: Classifier | None = None
        if config.classifier is not None:
            from llmops.gateway.guard.classifier import Classifier

            self._classifier = Classifier(config.classifier)

    def slow(self, body: bytes) -> bool:
        """Whether ``request`` would ask the classifier, so that it belongs off the event loop."""
        return self._classifier is not None and self._injection and may_have_untrusted(body)

    @property
    def scans_streams(self) -> bool:
        """Whether the text of a stream must pass through ``stream()``."""
        return self.config.secrets_out != "off"

    def lets_in(self, body: bytes) -> bool:
        """A quick look at a request: True means that ``request`` would find nothing."""
        size, most = len(body), self._max_messages
        if size > self._max_bytes or (size > 8 * most and body.count(b'"role"') > most):
            return False
        return not (self._words_in.may_be_in(body) or (self._injection and may_be_marked(body)))

    def lets_out(self, body: bytes) -> bool:
        """A quick look at an answer: True means that ``response`` would find nothing."""
        return not (self._secrets_out and may_have(body))

    def request(self, body: bytes) -> Verdict:
        """Look at a request.

        Raises:
            Blocked: It is too large, or has what the configuration blocks.
        """
        if len(body) > self._max_bytes:
            raise Blocked(413, "prompt_too_large", f"the request is larger than {self.config.max_prompt_mib:g} MiB")
        most = self._max_messages
        if len(body) > 8 * most and body.count(b'"role"') > most:  # no turn is shorter
            raise Blocked(413, "too_many_messages", f"the request has more than {most} messages")
        hits = find(body) if self._secrets_in and may_have(body) else None
        judged = NOTHING
        if self._injection and may_have_untrusted(body):
            judged = self._judge(untrusted_spans(body))
        if not hits and not judged.rules:
            return Verdict(body)
        hits = hits or []
        return self._verdict(body, hits, judged)

    def response(self, body: bytes) -> Verdict:
        """Look at a whole answer.

        Raises:
            Blocked: It has a secret, and the configuration blocks those.
        """
        hits = find(body) if self._secrets_out and may_have(body) else None
        if not hits:
            return Verdict(body)
        action, found = self.config.secrets_out, _names(hits)
        if action == "block":
            raise Blocked(
                502, "secret_in_answer", f"the answer contained a secret ({found[0]}) and was held back", found
            )
        return Verdict(redact(body, hits) if action == "redact" else body, found, header="secrets=" + ",".join(found))

    def stream(self) -> SecretStream | None:
        """A scanner for one text of a stream, or None where streams are not scanned."""
        action = self.config.secrets_out
        return None if action == "off" else SecretStream(action)

    def stream_events(self, surface: str) -> StreamEvents:
        """A scanner for the events of a whole stream; only where ``scans_streams``."""
        action = self.config.secrets_out
        assert action != "off"
        return StreamEvents(lambda: SecretStream(action), surface)

    def _judge(self, spans: list[str]) -> Judgement:
        judged = judge_all(spans)
        if self._classifier is None or not spans:
            return judged
        score = max(self._classifier.score(span) for span in spans)
        return judged if score <= judged.score else Judgement(score, (*judged.rules, "classifier"))

    def _verdict(self, body: bytes, hits: list[Hit], judged: Judgement) -> Verdict:
        secrets = _names(hits)
        if hits and self.config.secrets_in == "block":
            raise Blocked(400, "secret_in_request", f"the request contains a secret ({secrets[0]}); remove it", secrets)
        over = judged.score >= self.config.threshold
        if over and self.config.injection == "block":
            raise Blocked(
                400,
                "untrusted_instructions",
                "a tool result or document in the request gives instructions to the model",
                judged.rules,
            )
        header = "secrets=" + ",".join(secrets) if secrets and self.config.secrets_in != "log" else ""
        if over and self.config.injection == "header":
            header = "; ".join(filter(None, (header, f"injection={judged.score:.2f}")))
        sent = redact(body, hits) if hits and self.config.secrets_in == "redact" else body
        return Verdict(sent, (*secrets, *(judged.rules if over else ())), judged.score, header)


def _names(hits: list[Hit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(hit.rule for hit in hits))
