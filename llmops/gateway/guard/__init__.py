"""What may pass: secrets in both directions, instructions hidden in untrusted text, sizes. The prompt is never altered.

The way of a request through this package, in the order of ``request.py``::

    guard = Guard(config)                               # once; routes may have one of their own
    verdict = guard.request(body)                       # the raw JSON body; raises Blocked: .status, .code, .message
    body = verdict.body                                 # the same object unless a secret was redacted
    ... verdict.header                                  # text for x-llmops-guard, or "" where nothing was found
    # a whole answer
    verdict = guard.response(answer)                    # raises Blocked
    # a stream, one scanner for each choice or content block, fed with the text deltas only
    scanner = guard.stream()                            # None where answers are not scanned
    text = scanner.feed(delta)                          # what may be sent on; the rest is held back
    text = scanner.finish()                             # at the end of the stream; raises Blocked
    ... scanner.found

Findings are counted by ``verdict.found`` (rule names) for metrics; what was found is never part of a log or an error.
"""

from llmops.gateway.guard.config import GuardConfig
from llmops.gateway.guard.guard import Blocked, Guard, Verdict
from llmops.gateway.guard.secret_stream import SecretStream

__all__ = ["Blocked", "Guard", "GuardConfig", "SecretStream", "Verdict"]
