"""The vault: envelope encryption, rotation that survives a kill at every point, and nothing that leaks."""

import json
import os
import signal

import pytest

from llmops.errors import AccessError, UsageError
from llmops.gateway.access.master import MasterKey, new_master_text, read_master
from llmops.gateway.access.provider_keys import status
from llmops.gateway.access.vault import Vault

OLD, NEW, OTHER = (MasterKey.of(bytes([n]) * 32) for n in (1, 2, 3))
VALUES = {"openai": "sk-first-0123456789abcdef", "anthropic": "sk-ant-0123456789abcdef", "google": "AIza-xyz"}


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "vault.json"
    vault = Vault(made, OLD)
    for name, value in VALUES.items():
        vault.put(name, value)
    return made


def values(path, master):
    return {name: Vault(path, master).reveal(name) for name in VALUES}


def test_values_come_back_and_are_not_readable_at_rest(path):
    assert values(path, OLD) == VALUES
    text = path.read_text()
    assert not any(value in text for value in VALUES.values())
    assert oct(path.stat().st_mode & 0o777) == "0o600"


def test_another_master_key_opens_nothing_and_says_which_would(path):
    with pytest.raises(AccessError, match=OLD.id) as refused:
        Vault(path, OTHER).reveal("openai")
    assert "sk-first" not in str(refused.value) + str(refused.value.__cause__)
    with pytest.raises(AccessError, match="opens nothing"):
        Vault(path, OTHER).put("openai", "x")
    assert len(Vault(path, OTHER).state().unreadable) == 3


def test_entries_cannot_be_exchanged_inside_the_file(path):
    data = json.loads(path.read_text())
    entries = data["entries"]
    entries["openai"], entries["google"] = entries["google"], entries["openai"]
    path.write_text(json.dumps(data))
    with pytest.raises(AccessError, match="cannot be decrypted"):
        Vault(path, OLD).reveal("openai")


def test_a_changed_byte_is_noticed(path):
    data = json.loads(path.read_text())
    row = data["entries"]["openai"][0]
    row["value"] = row["value"][:-6] + ("A" if row["value"][-6] != "A" else "B") + row["value"][-5:]
    path.write_text(json.dumps(data))
    with pytest.raises(AccessError):
        Vault(path, OLD).reveal("openai")
    assert [entry.name for entry in Vault(path, OLD).state().unreadable] == ["openai"]


@pytest.mark.parametrize("text", ["not base64", "", "AAAA", "\u30ad\u30fc"])
@pytest.mark.parametrize("field", ["value", "wrap"])
def test_a_damaged_entry_is_said_to_be_damaged(path, monkeypatch, field, text):
    data = json.loads(path.read_text())
    row = data["entries"]["openai"][0]
    if field == "value":
        row["value"] = text
    else:
        row["wraps"] = {OLD.id: text}
    path.write_text(json.dumps(data))
    with pytest.raises(AccessError, match=r"'openai' cannot be decrypted: it has been changed in .*json") as refused:
        Vault(path, OLD).reveal("openai")
    assert "llmops keys set openai" in (refused.value.hint or "")
    monkeypatch.setenv("MASTER", "01" * 32)
    (finding,) = status(path, "env:MASTER").findings
    assert "openai version 1 cannot be decrypted: it has been changed in" in finding.message
    assert Vault(path, OLD).reveal("google") == VALUES["google"]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("rotation"),
        lambda data: data.update(entries=[]),
        lambda data: data["entries"].update(openai={}),
        lambda data: data["entries"]["openai"][0].pop("value"),
        lambda data: data["entries"]["openai"][0].update(wraps=None),
        lambda data: data["entries"]["openai"][0].update(value=7),
        lambda data: data.update(format=2),
    ],
)
def test_a_file_of_another_form_is_refused_and_kept(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    before = path.read_bytes()
    for use in (
        lambda v: v.reveal("openai"),
        lambda v: v.state(),
        lambda v: v.names(),
        lambda v: v.put("openai", "new"),
    ):
        with pytest.raises(AccessError, match="no vault of this version"):
            use(Vault(path, OLD))
    assert path.read_bytes() == before


def test_versions(path):
    vault = Vault(path, OLD)
    for n in range(4):
        assert vault.put("openai", f"value {n}") == n + 2
    assert vault.reveal("openai") == "value 3"
    kept = [entry.version for entry in vault.state().entries if entry.name == "openai"]
    assert kept == [3, 4, 5]


@pytest.mark.parametrize("name", ["", "Open AI", "../x", "_internal", "a" * 65])
def test_names(path, name):
    with pytest.raises(UsageError):
        Vault(path, OLD).put(name, "x")


@pytest.mark.parametrize("value", ["", "a\nb", "a\x00b", "x" * 20_000])
def test_values_that_would_break_a_header_are_refused(path, value):
    with pytest.raises(UsageError):
        Vault(path, OLD).put("openai", value)
    assert values(path, OLD) == VALUES


def test_rotation(path):
    assert Vault(path, OLD).rotate(NEW) == 3
    assert values(path, NEW) == VALUES
    with pytest.raises(AccessError):
        Vault(path, OLD).reveal("openai")


def test_both_masters_open_it_until_the_rotation_is_finished(path):
    Vault(path, OLD).rotate(NEW, finish=False)
    assert values(path, OLD) == values(path, NEW) == VALUES
    Vault(path, OLD).put("google", "written by a gateway of the old key")
    assert Vault(path, OLD).rotate(NEW) == 1
    assert Vault(path, NEW).reveal("google") == "written by a gateway of the old key"
    assert Vault(path, NEW).state().rotating is None


def test_a_second_rotation_cannot_start_inside_the_first(path):
    Vault(path, OLD).rotate(NEW, finish=False)
    with pytest.raises(AccessError, match="half done"):
        Vault(path, OLD).rotate(OTHER)


def test_a_rotation_with_a_lost_entry_changes_nothing(path):
    before = path.read_bytes()
    with pytest.raises(AccessError, match="neither master key"):
        Vault(path, OTHER).rotate(NEW)
    assert path.read_bytes() == before


def steps_of(action, path):
    steps = []
    action(Vault(path, OLD, on_step=steps.append))
    return steps


def killed_at(step, action, path):
    """Run ``action`` in a child that is killed with SIGKILL when it reaches step number ``step``."""
    child = os.fork()
    if child == 0:
        left = [step]

        def count(_step):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        action(Vault(path, OLD, on_step=count))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


def test_a_rotation_killed_between_every_two_writes_loses_nothing(path):
    original = path.read_bytes()
    steps = steps_of(lambda vault: vault.rotate(NEW), path)
    assert len(steps) == 4 * (1 + 3 + 1)
    for step in range(len(steps)):
        path.write_bytes(original)
        killed_at(step, lambda vault: vault.rotate(NEW), path)
        # Whatever was reached, at least one of the two keys opens everything …
        opening = [master for master in (OLD, NEW) if not Vault(path, master).state().unreadable]
        assert opening, steps[step]
        assert values(path, opening[0]) == VALUES
        # … and the same command, run again, finishes.
        Vault(path, OLD).rotate(NEW)
        assert values(path, NEW) == VALUES
        assert Vault(path, NEW).state().rotating is None
        assert not list(path.parent.glob("*.partial"))
        assert not list(path.parent.glob(".*.partial"))


def test_a_put_killed_at_every_point_leaves_the_old_or_the_new_value(path):
    original = path.read_bytes()
    steps = steps_of(lambda vault: vault.put("openai", "new"), path)
    path.write_bytes(original)
    for step in range(len(steps)):
        killed_at(step, lambda vault: vault.put("openai", "new"), path)
        assert Vault(path, OLD).reveal("openai") in (VALUES["openai"], "new")


# ---- master key sources ----


def test_a_master_key_from_each_source(tmp_path, monkeypatch):
    text = new_master_text()
    monkeypatch.setenv("MY_MASTER", text)
    file = tmp_path / "master"
    file.write_text(text + "\n")
    file.chmod(0o600)
    found = {read_master(source).id for source in ("env:MY_MASTER", f"file:{file}", f"command:cat {file}")}
    assert len(found) == 1
    assert text not in repr(read_master("env:MY_MASTER"))


@pytest.mark.parametrize(
    ("source", "code"),
    [("env:NOT_SET", 4), ("file:/nowhere/at/all", 4), ("command:false", 4), ("plain", 2), ("env:", 2)],
)
def test_no_master_key(source, code):
    with pytest.raises((AccessError, UsageError)) as refused:
        read_master(source)
    assert refused.value.exit_code == code


def test_a_master_key_file_that_others_may_read_is_refused(tmp_path):
    file = tmp_path / "master"
    file.write_text(new_master_text())
    file.chmod(0o644)
    with pytest.raises(AccessError, match="others may read"):
        read_master(f"file:{file}")


def test_a_passphrase_is_no_master_key(monkeypatch):
    monkeypatch.setenv("MY_MASTER", "correct horse battery staple")
    with pytest.raises(AccessError, match="32 bytes") as refused:
        read_master("env:MY_MASTER")
    assert "horse" not in str(refused.value)


# ---- through the command line ----


def test_keys_by_command(llmops, tmp_path):
    vault = tmp_path / "v.json"
    for name in ("m1", "m2"):
        assert llmops("keys", "master", "--to", tmp_path / name).code == 0
    old, new = (f"file:{tmp_path / name}" for name in ("m1", "m2"))
    secret = "sk-proj-0123456789abcdefghij"
    done = llmops("keys", "set", "openai", "--vault", vault, "--master", old, stdin=secret + "\n")
    assert done.code == 0, done.stderr
    done = llmops(
        "keys", "set", "google", "--from", "env:G", "--vault", vault, "--master", old, env={"G": "AIza" + "x" * 35}
    )
    assert done.code == 0, done.stderr
    listed = llmops("keys", "list", "--vault", vault, "--json")
    assert [row["name"] for row in listed.json["data"]["entries"]] == ["google", "openai"]
    wrong = llmops("keys", "status", "--vault", vault, "--master", new)
    assert wrong.code == 1
    ids = [read_master(each).id for each in (old, new)]
    said = " ".join(wrong.stdout.split())
    assert f"openai version 1 cannot be decrypted: it is wrapped by master key {ids[0]}, given was {ids[1]}" in said
    rotated = llmops("keys", "rotate", "--new-master", new, "--master", old, "--vault", vault)
    assert rotated.code == 0, rotated.stderr
    after = llmops("keys", "status", "--vault", vault, "--master", new, "--json")
    assert after.code == 0, after.stderr
    assert Vault(vault, read_master(new)).reveal("openai") == secret
    everything = [done, listed, wrong, rotated, after]
    assert not any(secret in each.stdout + each.stderr for each in everything)
    assert llmops("keys", "remove", "opanai", "--vault", vault).code == 2
    assert llmops("keys", "remove", "openai", "--vault", vault, "--dry-run").code == 0
    assert Vault(vault, None).names() == ("google", "openai")
    assert llmops("keys", "remove", "openai", "--vault", vault).code == 0
    assert Vault(vault, None).names() == ("google",)


def test_a_value_as_a_flag_is_refused(llmops, tmp_path):
    done = llmops("keys", "set", "openai", "--from", "sk-abcdefghijklmnopqrstuv", "--vault", tmp_path / "v")
    assert done.code in (2, 4)
    assert "sk-abcdefghijklmnopqrstuv" not in done.stderr
    assert not (tmp_path / "v").exists()
