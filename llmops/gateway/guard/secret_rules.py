"""Secrets that say what they are: a prefix, an alphabet, a length, and a checksum where the issuer has one.

Every rule is a literal prefix and one possessive pattern of bounded classes after it, so a scan looks at each byte a
bounded number of times, whatever the text is. Bare words ("password", "token") and bare hex are never secrets here.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from llmops.gateway.guard.looks import Words

_BASE62: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MIN_DISTINCT: Final = 8  # "ghp_xxxxxxxx…" and the like are placeholders
_PLACEHOLDER: Final = re.compile(rb"(?i)example|x{6}|your[_-]|placeholder|redacted|0{12}|\*{4}|123456789012")
LONGEST: Final = 8192  # a private key in text form, the longest that is held back in a stream


@dataclass(frozen=True, slots=True)
class SecretRule:
    """One kind of secret.

    Attributes:
        prefixes: Literal beginnings.
        tail: Matched right after the prefix; its end is the end of the secret.
        growing: Characters that may still follow when a text ends inside the secret.
        check: Tells a real one from text of the same shape, given the whole match.
        inside: Bytes before the prefix that mean it is the middle of something else.
    """

    name: str
    prefixes: tuple[bytes, ...]
    tail: re.Pattern[bytes]
    growing: re.Pattern[bytes]
    check: Callable[[bytes], bool] | None = None
    inside: bytes = b""


def _rule(
    name: str,
    prefixes: str,
    tail: str,
    check: Callable[[bytes], bool] | None = None,
    *,
    inside: bytes = b"",
    growing: str | None = None,
) -> SecretRule:
    classes = sorted(set(re.findall(r"\[[^\]]+\]", tail)))
    literal = "".join(sorted(set(re.sub(r"\[[^\]]+\]|\{[^}]*\}|\(\?![^)]*\)|[?+\\()|]", "", tail))))
    if literal:
        classes.append(f"[{re.escape(literal)}]")
    return SecretRule(
        name,
        tuple(each.encode() for each in prefixes.split()),
        re.compile(tail.encode()),
        re.compile((growing or f"(?:{'|'.join(classes)})*+").encode()),
        check,
        inside,
    )


def _openai(secret: bytes) -> bool:
    return b"T3BlbkFJ" in secret


def _crc_base62(secret: bytes) -> bool:
    """The last six characters are the CRC-32 of those after the prefix, in base 62 (GitHub's and npm's form)."""
    body = secret.partition(b"_")[2]
    value, text = zlib.crc32(body[:-6]), b""
    for _ in range(6):
        value, digit = divmod(value, 62)
        text = _BASE62[digit : digit + 1] + text
    # A token with another checksum is kept as long as it is no placeholder: a missed leak costs more.
    return text == body[-6:] or len(set(body)) >= 16


def _own(secret: bytes) -> bool:
    value, text = zlib.crc32(secret[:-6]), b""
    for _ in range(6):
        value, digit = divmod(value, 62)
        text = _BASE62[digit : digit + 1] + text
    return text == secret[-6:]


def _jwt(secret: bytes) -> bool:
    head = secret.partition(b".")[0]
    try:
        header = json.loads(urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    except (ValueError, Base64Error):
        return False
    # The token of the format's own documentation, which every text about it quotes, is no secret.
    return (
        isinstance(header, dict)
        and "alg" in header
        and b"eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9l" not in secret
    )


def _pem(secret: bytes) -> bool:
    return sum(char in _BASE62 for char in secret) >= 100


_W = "[A-Za-z0-9_-]"
_A = "[A-Za-z0-9]"
_END = f"(?!{_A})"
RULES: Final = (
    _rule("llmops-key", "sk-llmops-", f"{_A}{{48}}{_END}", _own),
    _rule("anthropic-key", "sk-ant-", f"{_W}{{80,160}}+"),
    _rule("openrouter-key", "sk-or-v1-", f"[0-9a-f]{{64}}{_END}"),
    _rule("openai-key", "sk-", f"{_W}{{40,220}}+", _openai, inside=b"-"),
    _rule("google-api-key", "AIza", f"{_W}{{35}}(?!{_W})"),
    _rule("google-oauth-token", "ya29.", f"{_W}{{30,2048}}+"),
    _rule("google-client-secret", "GOCSPX-", f"{_W}{{28}}(?!{_W})"),
    _rule("github-token", "ghp_ gho_ ghu_ ghs_ ghr_", f"{_A}{{36}}{_END}", _crc_base62),
    _rule("github-fine-grained-token", "github_pat_", f"{_A}{{22}}_{_A}{{59}}{_END}"),
    _rule("gitlab-token", "glpat-", f"{_W}{{20,64}}+"),
    _rule("npm-token", "npm_", f"{_A}{{36}}{_END}", _crc_base62),
    _rule("pypi-token", "pypi-AgEIcHlwaS5vcmc", f"{_W}{{50,400}}+"),
    _rule("huggingface-token", "hf_", f"[A-Za-z]{{34}}{_END}"),
    _rule("slack-token", "xoxb- xoxp- xoxa- xoxr- xoxs-", "[0-9]{9,13}-[0-9]{9,13}-[A-Za-z0-9-]{20,80}+"),
    _rule("slack-webhook", "https://hooks.slack.com/services/", f"T{_A}{{8,12}}+/B{_A}{{8,12}}+/{_A}{{24}}"),
    _rule("aws-access-key-id", "AKIA ASIA", f"[A-Z2-7]{{16}}{_END}"),
    _rule("stripe-key", "sk_live_ rk_live_", f"{_A}{{24,247}}+"),
    _rule("stripe-webhook-secret", "whsec_", f"{_A}{{32,64}}+"),
    _rule("sendgrid-key", "SG.", f"{_W}{{22}}[.]{_W}{{43}}(?!{_W})"),
    _rule("digitalocean-token", "dop_v1_ doo_v1_ dor_v1_", f"[0-9a-f]{{64}}{_END}"),
    _rule("databricks-token", "dapi", f"[0-9a-f]{{32}}{_END}"),
    _rule("shopify-token", "shpat_ shpss_ shpca_", f"[0-9a-fA-F]{{32}}{_END}"),
    _rule("linear-key", "lin_api_", f"{_A}{{40}}{_END}"),
    _rule("vault-token", "hvs.", f"{_W}{{90,120}}+"),
    _rule("azure-storage-key", "AccountKey=", "[A-Za-z0-9+/]{86}=="),
    _rule("age-secret-key", "AGE-SECRET-KEY-1", "[AC-HJ-NP-Z02-9]{58}"),
    _rule("jwt", "eyJ", f"{_W}{{10,1500}}+[.]eyJ{_W}{{10,4000}}+[.]{_W}{{20,1500}}+", _jwt, inside=b"-"),
    _rule(
        "private-key",
        "-----BEGIN",
        "[A-Z ]{0,14}PRIVATE KEY(?: BLOCK)?-----"
        "(?:[\\\\n\\s]{1,4}Proc-Type: 4,ENCRYPTED[\\\\n\\s]{1,4}DEK-Info: [A-Z0-9-]{5,20},[0-9A-F]{16,32})?"
        "[A-Za-z0-9+/=\\\\\\s]{64,7800}+-----END [A-Z ]{0,24}KEY(?: BLOCK)?-----",
        _pem,
        growing="[A-Z ]{0,30}+-{0,5}\\Z|[A-Z ]{0,14}PRIVATE KEY[A-Za-z0-9+/=\\\\\\s:,.-]*+",
    ),
)
BY_PREFIX: Final = {prefix: rule for rule in reversed(RULES) for prefix in rule.prefixes}
PREFIXES: Final = re.compile(b"|".join(re.escape(p) for p in sorted(BY_PREFIX, key=lambda p: (-len(p), p))))
LONGEST_PREFIX: Final = max(map(len, BY_PREFIX))
may_have: Final = Words(BY_PREFIX).may_be_in  # True where a prefix is
_BEGINNINGS: Final = {prefix[:n] for prefix in BY_PREFIX for n in range(1, len(prefix))}
# By their last byte, longest first: what a text that breaks off inside a prefix ends with.
PARTIAL: Final = {
    last: tuple(sorted((each for each in _BEGINNINGS if each[-1] == last), key=len, reverse=True))
    for last in {each[-1] for each in _BEGINNINGS}
}


@dataclass(frozen=True, slots=True)
class Hit:
    """A secret at ``start:end``."""

    rule: str
    start: int
    end: int


def find(text: bytes) -> list[Hit]:
    """Every secret in ``text``, which may be JSON: what escapes precede is not taken for part of a word."""
    if not may_have(text):
        return []
    hits: list[Hit] = []
    done = 0
    for match in PREFIXES.finditer(text):
        start = match.start()
        if start < done:
            continue
        rule = BY_PREFIX[match[0]]
        if _inside_a_word(text, start, rule):
            continue
        tail = rule.tail.match(text, match.end())
        if tail is None:
            continue
        secret = text[start : tail.end()]
        if is_placeholder(secret, match.end() - start) or (rule.check is not None and not rule.check(secret)):
            continue
        hits.append(Hit(rule.name, start, tail.end()))
        done = tail.end()
    return hits


def is_placeholder(secret: bytes, prefix: int) -> bool:
    """Whether a text only shows what a secret looks like."""
    tail = secret[prefix:]
    return len(set(tail)) < _MIN_DISTINCT or _PLACEHOLDER.search(tail[:200]) is not None


def _inside_a_word(text: bytes, start: int, rule: SecretRule) -> bool:
    before = text[start - 1 : start]
    if not before:
        return False
    if before in rule.inside:
        return True
    if not (before.isalnum() or before == b"_"):
        return False
    escape = text[max(0, start - 6) : start]  # \n, \t, 　 in JSON end in a letter or a digit
    return not (escape[-2:-1] == b"\\" and before in b"nrtbf") and escape[:2] != b"\\u"


def redact(text: bytes, hits: list[Hit]) -> bytes:
    """``text`` with each secret replaced by its kind; valid JSON stays valid."""
    parts, at = [], 0
    for hit in hits:
        parts += [text[at : hit.start], f"[REDACTED:{hit.rule}]".encode()]
        at = hit.end
    return b"".join((*parts, text[at:]))
