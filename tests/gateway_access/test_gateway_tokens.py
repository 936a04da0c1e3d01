"""Signed tokens: what passes, and every attack that must not."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from llmops.gateway.access import Access, AccessConfig, Denied, JwtConfig
from llmops.gateway.access.jwks import Jwks, parse_jwks

ISSUER, AUDIENCE = "https://id.example.com/", "llmops"
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})


class Issuer:
    """A real HTTP server with a key set; counts requests, can be made to fail."""

    def __init__(self):
        self.keys, self.requests, self.failing, self.body = [RSA, EC, ED], 0, False, None
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.requests += 1
                rows = [key.as_dict(private=False) for key in issuer.keys]
                body = issuer.body or json.dumps({"keys": rows}).encode()
                self.send_response(500 if issuer.failing else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def issuer():
    server = Issuer()
    yield server
    server.close()


class Clock:
    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


def config(issuer, **changes):
    fields = {
        "jwks_url": issuer.url, "issuer": ISSUER, "audience": AUDIENCE,
        "scopes": {"llm.use": ("chat", "models:llama*"), "llm.admin": ("admin",)},
    }  # fmt: skip
    return AccessConfig(jwt=(JwtConfig(**(fields | changes)),))


def claims(**changes):
    now = int(time.time())
    made = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "u-1", "exp": now + 600, "nbf": now - 1,
        "scope": "openid llm.use", "tenant": "acme", "team": "search",
    } | changes  # fmt: skip
    return {name: value for name, value in made.items() if value is not None}


def token(key=RSA, algorithm="RS256", header=None, **changes):
    return jwt.encode({"alg": algorithm, "kid": key.kid} | (header or {}), claims(**changes), key, [algorithm]).encode()


def ask(access, credential):
    found = access.check(credential)
    return found if found is not None else asyncio.run(access.check_slowly(credential))


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "Ed25519")], ids=["RS256", "ES256", "Ed25519"]
)
def test_a_token_of_each_algorithm_passes(issuer, key, algorithm):
    identity = ask(Access(config(issuer)), token(key, algorithm))
    assert (identity.tenant, identity.team, identity.key) == ("acme", "search", "jwt:u-1")
    identity.require("chat")
    identity.require_model("llama-3.1-8b")
    with pytest.raises(Denied) as refused:
        identity.require("admin")
    assert refused.value.status == 403
    with pytest.raises(Denied) as refused:
        identity.require_model("gpt-4o")
    assert refused.value.status == 404


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # only the signing of the test warns
def test_the_old_name_of_ed25519_passes(issuer):
    assert ask(Access(config(issuer)), token(ED, "EdDSA")).tenant == "acme"


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def unsigned(algorithm):
    return part({"alg": algorithm, "kid": "rsa"}) + b"." + part(claims()) + b"." + part("xxxx")


def signed_by_the_public_key_as_a_secret():
    """Key confusion: the RSA public key, which everyone has, used as an HMAC secret."""
    signing = part({"alg": "HS256", "kid": "rsa"}) + b"." + part(claims())
    digest = hmac.new(RSA.as_pem(private=False), signing, hashlib.sha256).digest()
    return signing + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")


def tampered():
    head, _, signature = token().split(b".")
    return head + b"." + part(claims(tenant="victim")) + b"." + signature


def critical():
    """Validly signed, with a header that demands an extension nobody here knows."""
    signing = part({"alg": "RS256", "kid": "rsa", "crit": ["x"], "x": 1}) + b"." + part(claims())
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    signature = RSA.private_key.sign(signing, padding.PKCS1v15(), hashes.SHA256())
    return signing + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


def twins():
    """The same claim twice, validly signed."""
    from joserfc import jws

    body = json.dumps(claims())[:-1] + ', "tenant": "victim"}'
    return jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, body, RSA, algorithms=["RS256"]).encode()


ATTACKS = {
    "alg none": lambda: unsigned("none"),
    "alg NONE": lambda: unsigned("NonE"),
    "alg none, empty signature": lambda: unsigned("none").rpartition(b".")[0] + b".",
    "key confusion": signed_by_the_public_key_as_a_secret,
    "signed by a stranger under a known kid": lambda: token(STRANGER),
    "kid of another kind of key": lambda: token(RSA, header={"kid": "ec"}),
    "algorithm of another kind": lambda: token(RSA, "PS256"),
    "tampered payload": tampered,
    "one claim twice": twins,
    "expired": lambda: token(exp=int(time.time()) - 120),
    "not yet valid": lambda: token(nbf=int(time.time()) + 600),
    "issued in the future": lambda: token(iat=int(time.time()) + 600),
    "without exp": lambda: token(exp=None),
    "without nbf": lambda: token(nbf=None),
    "exp as text": lambda: token(exp="9999999999"),
    "exp beyond all bounds": lambda: token(exp=10**15),
    "wrong audience": lambda: token(aud="other"),
    "audience contained in text": lambda: token(aud="llmops-staging"),
    "without audience": lambda: token(aud=None),
    "wrong issuer": lambda: token(iss="https://evil.example.com/"),
    "own key in the header": lambda: token(STRANGER, header={"jwk": STRANGER.as_dict(private=False)}),
    "key set by URL in the header": lambda: token(STRANGER, header={"jku": "https://evil.example.com/"}),
    "critical extension": critical,
    "an id token by its typ": lambda: token(header={"typ": "dpop+jwt"}),
    "oversize": lambda: token(padding="x" * 9000),
    "four parts": lambda: token() + b".AAAA",
    "not base64": lambda: token().replace(b".", b".*", 1),
    "header no object": lambda: part([1]) + b"." + part(claims()) + b".AAAA",
    "nested too deeply": lambda: base64.urlsafe_b64encode(b"[" * 1500).rstrip(b"=") + b"." + part({}) + b".AAAA",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_passes(issuer, attack):
    access = Access(config(issuer))
    ask(access, token())  # the keys are loaded, a good token is remembered
    with pytest.raises(Denied) as refused:
        ask(access, ATTACKS[attack]())
    assert refused.value.status == 401
    line = refused.value.log_line
    assert "\n" not in line
    assert line.isprintable()
    assert "eyJ" not in line + refused.value.message


def test_a_valid_token_without_a_tenant_is_refused(issuer):
    with pytest.raises(Denied) as refused:
        ask(Access(config(issuer)), token(tenant=None))
    assert refused.value.status == 403
    assert ask(Access(config(issuer, default_tenant="all")), token(tenant=None)).tenant == "all"


def test_tenant_names_that_could_break_a_log_or_a_key_do_not_count(issuer):
    with pytest.raises(Denied):
        ask(Access(config(issuer)), token(tenant="a\nb"))
    with pytest.raises(Denied):
        ask(Access(config(issuer)), token(sub={"$ne": None}))


def test_scopes_of_the_issuer_count_only_as_mapped(issuer):
    assert ask(Access(config(issuer)), token(scope="admin models:*")).scopes.listed() == ()
    trusted = ask(Access(config(issuer, trust_scopes=True)), token(scope=["admin", "models:*"]))
    assert trusted.scopes.listed() == ("admin", "models:*")


def test_a_claim_by_dotted_path(issuer):
    found = ask(Access(config(issuer, tenant_claim="org.id")), token(org={"id": "deep"}))
    assert found.tenant == "deep"


def test_a_remembered_token_ends_with_its_own_expiry_and_after_a_minute(issuer):
    clock = Clock()
    access = Access(config(issuer, skew_s=0), now=clock)
    short, long = token(exp=int(clock.now) + 20), token()
    for each in (short, long):
        ask(access, each)
    issuer.keys = []  # nothing is fetched again for what is remembered
    verifier, _ = access._issuers[ISSUER]
    assert verifier.remembered(hashlib.sha256(short).digest())
    assert verifier.remembered(hashlib.sha256(long).digest())
    clock.now += 30
    assert verifier.remembered(hashlib.sha256(short).digest()) is None
    assert verifier.remembered(hashlib.sha256(long).digest())
    clock.now += 31
    assert verifier.remembered(hashlib.sha256(long).digest()) is None
    with pytest.raises(Denied) as refused:
        ask(access, short)
    assert refused.value.code == "token_expired"


def test_a_new_key_is_fetched_once_for_many_waiting_and_strangers_cannot_drive_the_issuer(issuer):
    access = Access(config(issuer, refresh_gap_s=1000))
    _, keys = access._issuers[ISSUER]
    fresh = OKPKey.generate_key("Ed25519", {"kid": "fresh"})
    asyncio.run(access.refresh_keys())
    assert issuer.requests == 1
    issuer.keys.append(fresh)
    keys._tried_at -= 2000

    async def many():
        return await asyncio.gather(*(access.check_slowly(token(fresh, "Ed25519")) for _ in range(20)))

    assert {each.tenant for each in asyncio.run(many())} == {"acme"}
    assert issuer.requests == 2
    for n in range(50):
        stranger = OKPKey.generate_key("Ed25519", {"kid": f"no-{n}"})
        with pytest.raises(Denied):
            ask(access, token(stranger, "Ed25519"))
    assert issuer.requests == 2


def test_an_outage_of_the_issuer_is_not_one_of_the_gateway(issuer):
    clock = Clock()
    keys = Jwks(lambda: b"", ttl_s=10, gap_s=0, max_stale_s=100, clock=clock)
    keys.load(json.dumps({"keys": [ED.as_dict(private=False)]}).encode())
    clock.now += 50
    assert keys.due
    assert asyncio.run(keys.refresh()) is False  # an empty document is no key set
    assert keys.usable
    assert keys.key("ed", "Ed25519")
    clock.now += 61
    assert not keys.usable


def test_without_any_key_tokens_get_503_and_keys_of_callers_still_pass(issuer, tmp_path):
    from llmops.gateway.access.callers import CallerDatabase

    issuer.failing = True
    path = tmp_path / "callers.sqlite"
    with CallerDatabase(path, create=True) as database:
        key = database.add("ci").encode()
    access = Access(config(issuer).model_copy(update={"callers": path}))
    with pytest.raises(Denied) as refused:
        ask(access, token())
    assert (refused.value.status, refused.value.retry_after_s) == (503, 30)
    assert access.check(key).key == "ci"


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b'{"keys": 1}', b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": "x"}]}', b"[" * 9999],
)
def test_no_key_set(document):
    with pytest.raises(ValueError, match=r"(?i)key"):
        Jwks(lambda: b"").load(document)


def test_weak_foreign_and_encrypting_keys_are_left_out():
    rows = [
        {**RSA.as_dict(private=False), "kid": "enc", "use": "enc"},
        {**ED.as_dict(private=False), "kid": "good"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "broken"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
        "no object",
    ]
    assert set(parse_jwks(json.dumps({"keys": rows}).encode())) == {"good"}


def test_a_huge_key_set_is_not_read(issuer):
    issuer.body = b'{"keys": [' + b" " * (1 << 20) + b"]}"
    access = Access(config(issuer))
    asyncio.run(access.refresh_keys())
    assert not access._issuers[ISSUER][1].usable


@pytest.mark.parametrize("url", ["http://id.example.com/", "file:///etc/passwd", "ftp://x/", "https://"])
def test_keys_are_fetched_over_https_only(url):
    with pytest.raises(ValueError, match="https"):
        JwtConfig(jwks_url=url, issuer="i", audience="a")
