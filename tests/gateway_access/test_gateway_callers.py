"""Virtual keys and service tokens, through the database, the command line and the check of the hot path."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.gateway.access import (
    Access,
    AccessConfig,
    CallerLimits,
    Denied,
    Scopes,
    keyform,
    pick_credential,
    safe_text,
)
from llmops.gateway.access.callers import CallerDatabase


@pytest.fixture
def path(tmp_path):
    return tmp_path / "callers.sqlite"


@pytest.fixture
def database(path):
    with CallerDatabase(path, create=True) as opened:
        yield opened


def refusal(access, credential):
    with pytest.raises(Denied) as refused:
        access.check(credential)
    assert refused.value.status == 401
    return refused.value.detail


def test_a_key_carries_its_caller(database, path):
    key = database.add(
        "ci", tenant="acme", team="search", scopes=("chat", "models:llama*"), limits=CallerLimits(60, None, 4)
    )
    identity = Access(AccessConfig(callers=path)).check(key.encode())
    assert (identity.key, identity.tenant, identity.team, identity.limits.concurrent) == ("ci", "acme", "search", 4)
    assert identity.scopes.allows_model("llama-3.1-8b")
    assert not identity.scopes.allows_model("gpt-4o")


def test_the_key_is_stored_nowhere(database, path):
    key = database.add("ci")
    everything = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert key.encode() not in everything
    assert key[18:-6].encode() not in everything
    assert oct(path.stat().st_mode & 0o777) == "0o600"


def test_wrong_keys(database, path):
    key = database.add("ci")
    access = Access(AccessConfig(callers=path))
    assert refusal(access, key[:-1].encode()) == "mistyped key"
    other = keyform.PREFIX + key[10:18] + "A" * 34
    assert refusal(access, (other + keyform.checksum(other)).encode()) == "unknown key"
    assert refusal(access, keyform.new_key()[0].encode()) == "unknown key"
    assert refusal(access, b"sk-\xff\xfe\x00") == "unknown key"
    assert refusal(access, None) == "no credential"


def test_rotation_overlaps_then_ends(database, path):
    now = [time.time()]
    access = Access(AccessConfig(callers=path), now=lambda: now[0])
    first = database.add("ci")
    second = database.rotate("ci", overlap_s=3600)
    access.maintain()
    assert access.check(first.encode()).key == access.check(second.encode()).key == "ci"
    now[0] += 3601
    assert "expired" in refusal(access, first.encode())
    assert access.check(second.encode()).key == "ci"
    third = database.rotate("ci", overlap_s=0)
    access.maintain()
    assert refusal(access, second.encode()) == "unknown key"
    assert access.check(third.encode())
    assert database.list()[0].prefixes == (third[10:18],)


def test_revocation_reaches_an_open_gateway(database, path):
    key = database.add("ci")
    access = Access(AccessConfig(callers=path))
    assert access.check(key.encode())
    database.revoke("ci")
    access.maintain()
    assert refusal(access, key.encode()) == "unknown key"
    with pytest.raises(UsageError, match="already"):
        database.add("ci")  # the name stays taken: the ledger knows it


def test_an_expired_caller(database, path):
    key = database.add("ci", expires=time.time() + 10)
    now = [time.time()]
    access = Access(AccessConfig(callers=path), now=lambda: now[0])
    assert access.check(key.encode())
    now[0] += 11
    assert "expired" in refusal(access, key.encode())


@pytest.mark.parametrize("name", ["", "a b", "../x", "a\nb", "x" * 65, "-a", "ä"])
def test_names_that_break_things_are_refused(database, name):
    with pytest.raises(UsageError):
        database.add(name)


@settings(deadline=None)
@given(st.text(alphabet=keyform._ALPHABET, min_size=keyform.LENGTH - 10, max_size=keyform.LENGTH - 10))
def test_random_text_is_no_well_formed_key(body):
    made = keyform.PREFIX + body
    assert keyform.well_formed(made) == (keyform.checksum(made[:-6]) == made[-6:])


@settings(deadline=None)
@given(st.integers(0, 41), st.sampled_from("abcXYZ019"))
def test_one_wrong_character_is_noticed(index, char):
    key, _ = keyform.new_key()
    at = len(keyform.PREFIX) + index
    wrong = key[:at] + char + key[at + 1 :]
    assert keyform.well_formed(key)
    assert keyform.well_formed(wrong) == (wrong == key)


def test_nothing_is_implied_by_a_scope():
    assert not Scopes.of(("chat",)).allows_model("llama")
    assert Scopes.of(("models:*",)).allows_model("anything")
    scopes = Scopes.of(("models:a*",))
    for n in range(2000):
        scopes.allows_model(f"stranger-{n}")
    assert len(scopes._answers) <= 512


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "expected"),
    [
        (b"Bearer abc", None, b"abc"),
        (b"bearer  abc ", None, b"abc"),
        (None, b"abc", b"abc"),
        (b"Bearer abc", b"abc", b"abc"),
        (None, None, None),
    ],
)
def test_picking_the_credential(authorization, x_api_key, expected):
    assert pick_credential(authorization, x_api_key) == expected


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [(b"Bearer a", b"b"), (b"Basic abc", None), (b"Bearer", None), (b"Bearer " + b"x" * 9000, None)],
)
def test_contradictory_or_malformed_credentials(authorization, x_api_key):
    with pytest.raises(Denied) as refused:
        pick_credential(authorization, x_api_key)
    assert refused.value.status == 401


@settings(deadline=None)
@given(st.text())
def test_text_for_a_log_is_one_printable_line(text):
    shown = safe_text(text)
    assert shown.isprintable()
    assert len(shown) <= 201


def test_text_for_a_log_has_no_secret():
    assert "abcdefghijklmnop" not in safe_text("key sk-abcdefghijklmnopqrstuvwxyz")


# ---- through the command line ----


def test_callers_by_command(llmops, tmp_path):
    env = {"LLMOPS_STATE_DIR": str(tmp_path / "state")}
    done = llmops("callers", "add", "ci", "--tenant", "acme", "--rpm", "60", "--to", tmp_path / "k1", "--json", env=env)
    assert done.code == 0, done.stderr
    key = (tmp_path / "k1").read_text().strip()
    assert keyform.well_formed(key)
    assert key not in done.stdout + done.stderr
    assert oct((tmp_path / "k1").stat().st_mode & 0o777) == "0o600"
    assert done.json["data"]["callers"][0]["prefixes"] == [key[10:18]]
    again = llmops("callers", "add", "other", "--to", tmp_path / "k1", env=env)
    assert again.code == 2
    assert "exists already" in again.stderr
    rotated = llmops("callers", "rotate", "ci", "--overlap", "1h", "--to", tmp_path / "k2", env=env)
    assert rotated.code == 0, rotated.stderr
    access = Access(AccessConfig(callers=tmp_path / "state" / "gateway" / "callers.sqlite"))
    for file in ("k1", "k2"):
        assert access.check((tmp_path / file).read_bytes().strip()).tenant == "acme"
    missing = llmops("callers", "revoke", "cii", env=env)
    assert missing.code == 2
    assert "did you mean 'ci'" in missing.stderr
    assert llmops("callers", "revoke", "ci", env=env).code == 0
    access.maintain()
    assert refusal(access, key.encode()) == "unknown key"


def test_service_tokens_by_command(llmops, tmp_path):
    assert llmops("keys", "master", "--to", tmp_path / "master").code == 0
    env = {"LLMOPS_STATE_DIR": str(tmp_path / "state"), "LLMOPS_MASTER_KEY": (tmp_path / "master").read_text().strip()}
    issued = llmops(
        "tokens", "issue", "--service", "ranker", "--scope", "embeddings", "--scope", "models:bert*",
        "--to", tmp_path / "t1", "--json", env=env,
    )  # fmt: skip
    assert issued.code == 0, issued.stderr
    token = (tmp_path / "t1").read_bytes().strip()
    assert token.decode() not in issued.stdout
    access = Access(AccessConfig(callers=tmp_path / "state" / "gateway" / "callers.sqlite"))
    identity = access.check(token)
    assert (identity.kind, identity.key, identity.scopes.listed()) == (
        "service", "service:ranker", ("embeddings", "models:bert*"),
    )  # fmt: skip
    with pytest.raises(Denied):
        identity.require("chat")
    # A rotated signing key: the old token still passes, the new one too.
    assert llmops("tokens", "rotate", env=env).code == 0
    second = llmops("tokens", "issue", "--service", "web", "--scope", "chat", "--to", tmp_path / "t2", env=env)
    assert second.code == 0, second.stderr
    access.maintain()
    web = (tmp_path / "t2").read_bytes().strip()
    assert access.check(token).key == "service:ranker"
    assert access.check(web).key == "service:web"
    # One by its id, the other by its service; both were remembered as valid.
    assert llmops("tokens", "revoke", "--id", issued.json["data"]["claims"]["jti"], env=env).code == 0
    access.maintain()
    assert "revoked" in refusal(access, token)
    assert access.check(web)
    assert llmops("tokens", "revoke", "--service", "web", env=env).code == 0
    access.maintain()
    assert "revoked" in refusal(access, web)


def test_a_service_token_needs_the_master_key(llmops, tmp_path):
    done = llmops(
        "tokens", "issue", "--service", "x", "--scope", "chat", "--to", tmp_path / "t",
        env={"LLMOPS_STATE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.code == 4
    assert "LLMOPS_MASTER_KEY" in done.stderr
    assert not (tmp_path / "t").exists()
