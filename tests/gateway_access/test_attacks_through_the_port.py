"""Attacks on a running gateway: none passes, none reaches a provider, each is one line in the log."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack

import httpx
import pytest
from gateway_fakes import fake, gateway, wait_until
from gateway_fakes import openai as openai_server
from test_gateway_tokens import ATTACKS, AUDIENCE, ISSUER, Issuer, token

CONFIG = """
listen: {{max_body_mib: 0.1}}
cache: {{enabled: true}}
access_log: access.jsonl
keys:
  - {{name: a, env: KA, tenant: a}}
  - {{name: b, env: KB, tenant: b}}
  - {{name: small, env: KS, models: [other]}}
access:
  jwt:
    - {{jwks_url: "{jwks}", issuer: "{issuer}", audience: "{audience}", scopes: {{llm.use: [chat, "models:m"]}}}}
providers: {{up: {{base_url: "{url}/v1", key_env: UPK, prices_as: openai}}}}
routes: [{{match: m, targets: [{{provider: up, model: gpt-4o}}]}}]
"""
ENV = {"KA": "sk-a-0123456789", "KB": "sk-b-0123456789", "KS": "sk-s-0123456789", "UPK": "sk-up-0123456789"}
GOOD = {"authorization": f"Bearer {ENV['KA']}"}


class Site:
    def __init__(self, running, up, issuer):
        self.running, self.up, self.issuer = running, up, issuer
        self.port = int(running.url.rpartition(":")[2])

    def ask(self, headers=None, path="/v1/chat/completions", **changes):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | changes
        return httpx.post(f"{self.running.url}{path}", json=body, headers=headers or {}, timeout=20)

    def raw(self, request: bytes) -> bytes:
        """What comes back for exactly these bytes, until the gateway is silent or gone."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as link:
            link.sendall(request)
            link.shutdown(socket.SHUT_WR)
            found = b""
            while data := link.recv(65536):
                found += data
            return found

    def lines(self):
        return self.running.log.read_text(encoding="utf-8").splitlines()

    def attacked(self, attack):
        """Run an attack; returns its outcome and the one line that it left."""
        before, asked = len(self.lines()), len(self.up.seen)
        outcome = attack()
        wait_until(lambda: len(self.lines()) > before, what="a line in the log")
        time.sleep(0.02)  # a second line would come at once
        new = self.lines()[before:]
        assert len(new) == 1, new
        assert new[0].isprintable()
        assert len(new[0]) < 400
        assert len(self.up.seen) == asked, "it reached the provider"
        return outcome, new[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("attacked")
    with ExitStack() as stack:
        issuer = Issuer()
        stack.callback(issuer.close)
        up = stack.enter_context(fake(openai_server))
        config = CONFIG.format(url=up.url, jwks=issuer.url, issuer=ISSUER, audience=AUDIENCE)
        running = stack.enter_context(gateway(directory, config, env=ENV))
        made = Site(running, up, issuer)
        assert made.ask({"authorization": f"Bearer {token().decode()}"}).status_code == 200
        assert made.ask(GOOD).status_code == 200
        yield made


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_forged_token_passes(site, attack):
    sent = ATTACKS[attack]().decode("latin-1")
    answer, line = site.attacked(lambda: site.ask({"authorization": f"Bearer {sent}"}))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "denied 401" in line
    assert "eyJ" not in line + answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer sk-a-0123456788"}, 401),
        ({"authorization": "Basic c2stYS0wMTIzNDU2Nzg5"}, 401),
        ({"authorization": "Bearer " + "x" * 9000}, 401),
        ({"authorization": f"Bearer {ENV['KA']}", "x-api-key": ENV["KB"]}, 401),
        ({"x-api-key": f"{ENV['KA']} {ENV['KB']}"}, 401),
        ({"x-api-key": ENV["KS"]}, 404),  # a model out of its reach
        ({"authorization": "Bearer eyJ\u0430.b.c".encode()}, 401),
    ],
)
def test_no_wrong_credential_passes(site, headers, status):
    answer, line = site.attacked(lambda: site.ask(headers))
    assert answer.status_code == status
    assert f"denied {status}" in line
    for secret in ENV.values():
        assert secret not in line + answer.text


BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
LINE = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
KEY = b"authorization: Bearer " + ENV["KA"].encode() + b"\r\n"
SECOND = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + KEY + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
SIZE = b"content-length: %d\r\n" % len(BODY)
SMUGGLED = {
    "length and chunks": LINE + KEY + SIZE + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "two lengths": LINE + KEY + SIZE + b"content-length: 0\r\n\r\n" + BODY + SECOND,
    "a length with a sign": LINE + KEY + b"content-length: +%d\r\n\r\n" % len(BODY) + BODY,
    "a space before the colon": LINE + KEY + b"transfer-encoding : chunked\r\n" + SIZE + b"\r\n" + BODY,
    "a folded header": LINE + b"authorization: Bearer\r\n " + ENV["KA"].encode() + b"\r\n" + SIZE + b"\r\n" + BODY,
    "chunks by another name": LINE + KEY + b"transfer-encoding: xchunked\r\n" + SIZE + b"\r\n" + BODY,
    "chunks twice": LINE + KEY + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n" + SECOND,
    "two keys": LINE + KEY + KEY.replace(b"sk-a", b"sk-b") + SIZE + b"\r\n" + BODY,
    "two keys in x-api-key": LINE + b"x-api-key: x\r\nx-api-key: " + ENV["KA"].encode() + b"\r\n" + SIZE + b"\r\n" + BODY,
    "a null in a header": LINE + KEY + b"x-a: b\x00c\r\n" + SIZE + b"\r\n" + BODY,
    "a bare line feed in a header": LINE + KEY + b"x-a: b\nx-api-key: y\r\n" + SIZE + b"\r\n" + BODY,
    "a bare carriage return": LINE + KEY + b"x-a: b\rx-api-key: y\r\n" + SIZE + b"\r\n" + BODY,
    "a chunk size with text": LINE + KEY + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + BODY + b"\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", SMUGGLED)
def test_no_request_is_smuggled(site, name):
    answer, line = site.attacked(lambda: site.raw(SMUGGLED[name]))
    statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses, "an answer"
    assert statuses[0] in (400, 401)
    assert 200 not in statuses
    for secret in ENV.values():
        assert secret not in line


NAMES = ["m\r\nx-evil: 1", "m\n", "m\x00", "m\x1b[31mred", "m\u202egnp", "m\u2028", "x" * 300, "\x7f"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/embeddings", "/v1/responses"])
@pytest.mark.parametrize("name", NAMES)
def test_no_control_character_in_a_models_name(site, name, path):
    answer, line = site.attacked(lambda: site.ask(GOOD, path, model=name))
    assert answer.status_code == 400
    assert "x-evil" not in answer.headers
    assert "invalid_model" in line


PATHS = [
    "/v1//chat/completions", "/v1/./chat/completions", "/v1/x/../chat/completions", "/v1/%63hat/completions",
    "/v1/chat/completions/", "/V1/CHAT/COMPLETIONS", "/v1/chat/completions;x", "/v1/chat/completions%00",
    "/v1/chat%2fcompletions", "//v1/chat/completions", "/metrics/../v1/chat/completions", "/v1/chat/completions%0d%0a",
    "/..%2f..%2fetc/passwd", "/v1/files/../../etc/passwd", "/admin", "/.env", "/v1/\\chat\\completions",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_another_one_in_disguise(site, path):
    request = b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" % path.encode() + KEY + SIZE + b"\r\n" + BODY
    answer, line = site.attacked(lambda: site.raw(request))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400", b"HTTP/1.1 405"))
    assert "404" in line or "405" in line or "400" in line or "Invalid HTTP" in line


@pytest.mark.parametrize("path", ["/metrics", "//metrics", "/./metrics", "/metrics/", "/v1/../metrics", "/%6detrics"])
def test_no_path_to_the_metrics_without_an_admins_key(site, path):
    for key in (b"", KEY):
        request = b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" % path.encode() + key + b"\r\n"
        before = site.raw(request)
        assert before.split(b" ")[1] in (b"401", b"403", b"404", b"307"), before
        assert b"llm_requests" not in before


def test_no_tenant_learns_what_another_asked(site):
    question = {"messages": [{"role": "user", "content": "a secret project's name"}], "temperature": 0}
    assert site.ask(GOOD, **question).headers["x-llmops-cache"] == "miss"
    assert site.ask(GOOD, **question).headers["x-llmops-cache"] == "hit"
    seen = len(site.up.seen)
    probed = site.ask({"x-api-key": ENV["KB"]}, **question)
    assert probed.headers["x-llmops-cache"] == "miss"
    assert probed.headers["x-llmops-cost-usd"] != "0"
    assert len(site.up.seen) == seen + 1  # it waited as long as for anything new


def test_what_callers_send_cannot_write_lines_into_the_access_log(site):
    directory = site.running.log.parent
    evil = 'x"}\n{"key": "admin", "status": 200'
    site.ask({**GOOD, "user-agent": "a\\nb", "x-request-id": "1\\r\\n2"}, user=evil, metadata={"k": evil})
    assert site.ask(GOOD, model="no such").status_code == 404
    log = directory / "access.jsonl"  # made with its first row
    wait_until(lambda: log.exists() and "no such" in log.read_text(), what="the row")
    rows = [json.loads(line) for line in (directory / "access.jsonl").read_text().splitlines()]
    assert {row["key"] for row in rows} <= {None, "a", "b", "small", "jwt:u-1"}


def test_a_body_beyond_the_limit_is_refused_and_its_connection_closed(site):
    seen = len(site.up.seen)
    answer = site.ask(GOOD, messages=[{"role": "user", "content": "x" * 200_000}])
    assert answer.status_code == 413
    assert len(site.up.seen) == seen


def test_an_outage_of_the_issuer(site, tmp_path):
    site.issuer.failing = True
    try:
        # What was checked a moment ago is remembered; new tokens are checked with the keys that are here.
        assert site.ask({"authorization": f"Bearer {token(sub='u-2').decode()}"}).status_code == 200
        config = CONFIG.format(url=site.up.url, jwks=site.issuer.url, issuer=ISSUER, audience=AUDIENCE)
        with gateway(tmp_path, config, env=ENV) as running:
            fresh = Site(running, site.up, site.issuer)
            answer = fresh.ask({"authorization": f"Bearer {token().decode()}"})
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert fresh.ask(GOOD).status_code == 200
            assert any("denied 503 identity_unavailable" in line for line in fresh.lines())
    finally:
        site.issuer.failing = False
