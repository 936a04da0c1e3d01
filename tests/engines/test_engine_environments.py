"""Environments of engines: made by the real pip from wheels built here, without a network."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from llmops.engines import catalog, environments, installation, recipe
from llmops.engines.checking import list_engines, probe
from llmops.engines.environments import MARKER, environment, interpreter
from llmops.errors import MachineError, OutsideError, UsageError
from llmops.progress import Silent
from llmops.settings import settings

TOY = catalog.EngineSpec(
    name="toy",
    purpose="a toy",
    home="environment",
    distribution="toy-engine",
    modules=("toy_engine",),
    install_cpu=("toy-engine==1.0",),
    skip=("toy-cuda",),
    alias="toy",
)


def wheel(directory: Path, name: str, version: str, source: str, requires: tuple[str, ...] = ()) -> None:
    """A wheel of one module."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = {
        f"{module}.py": source,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in files.items()
    )
    with zipfile.ZipFile(directory / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in (files | {f"{info}/RECORD": record + f"{info}/RECORD,,\n"}).items():
            archive.writestr(path, text)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """An engine like vLLM: it pins a build that breaks it, and a dependency of its own asks for that build too."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    # As transformers does with torchvision: take it when it is there, and break on it.
    source = (
        "import importlib.metadata, importlib.util\n"
        "assert importlib.util.find_spec('toy_cuda') is None, 'a CUDA build is in the way'\n"
        "import toy_helper\n"
        "version = importlib.metadata.version('toy')\n"
    )
    wheel(
        wheels, "toy-engine", "1.0", source, ("toy-cuda==7.0", "toy-helper>=2", 'toy-windows ; sys_platform == "win32"')
    )
    wheel(wheels, "toy-helper", "2.1", "", ("toy-cuda",))
    wheel(wheels, "toy-cuda", "7.0", "raise OSError('this is a CUDA build')")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("LLMOPS_ENGINES_DIR", str(tmp_path / "engines"))
    monkeypatch.setitem(catalog.ENGINES, "toy", TOY)
    monkeypatch.setattr(installation, "FREE_BYTES", 2**28)  # a toy needs no more; a full disk has a test of its own
    settings.cache_clear()
    yield tmp_path / "engines" / "toy"
    settings.cache_clear()


def make(**options):
    return installation.install("toy", Silent(), installer="pip", variant="cpu", **options)


def in_environment(path: Path, code: str) -> str:
    done = subprocess.run([path / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_engine_is_installed_without_what_breaks_it_then_kept_then_repaired(toy):
    first = make()
    assert (first.action, first.check.version, environment("toy").state) == ("installed", "1.0", "ready")
    assert in_environment(toy, "import toy_engine; print(toy_engine.version)") == "1.0+cpu"
    assert (
        "toy-cuda"
        not in subprocess.run(
            [toy / "bin" / "python", "-m", "pip", "list"], capture_output=True, text=True, check=True
        ).stdout
    )
    assert [(pin.requires, pin.left_out) for pin in first.check.pins if not pin.fits] == [("toy-cuda", True)]
    assert not first.findings, "what is left out on purpose is no finding"
    assert interpreter("toy") == toy / "bin" / "python"

    assert make().action == "kept"

    (toy / MARKER).unlink()  # as an interrupted installation leaves it
    assert environment("toy").state == "broken"
    with pytest.raises(MachineError, match="broken"):
        interpreter("toy")
    assert make().action == "repaired"
    assert environment("toy").state == "ready"

    next(toy.glob("lib/python3*/site-packages/toy_helper.py")).unlink()  # whole by its marker, and yet it does not work
    broken = probe(TOY, toy / "bin" / "python")
    assert "toy_helper" in broken.import_error
    assert [finding.severity for finding in broken.findings()] == ["error"]


def without_pip(spec, path, requirements, installer, *, cuda):
    """Steps that make an environment of one module at once; an engine of version 3 cannot be had."""
    version = requirements[0].partition("==")[2]

    def fill():
        if version == "3.0":
            raise OutsideError("No matching distribution", "the log")
        site = recipe.site_packages(path)
        (site / "toy_engine.py").write_text(f"version = {version!r}\n")
        recipe.write_alias(path, "toy-engine", "toy-engine")

    return (recipe.Step("making", "", (sys.executable, "-m", "venv", "--without-pip", str(path)), act=fill),)


def test_requirements_that_changed_are_seen_and_a_failed_update_leaves_the_old_engine(toy, monkeypatch):
    monkeypatch.setattr(recipe, "steps", without_pip)
    make()
    assert environment("toy").recipe == catalog.fingerprint(TOY, cuda=False)

    monkeypatch.setitem(catalog.ENGINES, "toy", replace(TOY, install_cpu=("toy-engine==3.0",)))
    with pytest.raises(OutsideError, match="No matching distribution"):
        make()
    assert in_environment(toy, "import toy_engine; print(toy_engine.version)") == "1.0"

    monkeypatch.setitem(catalog.ENGINES, "toy", replace(TOY, install_cpu=("toy-engine==2.0",)))
    why = "its requirements changed: toy-engine==2.0 is new, toy-engine==1.0 is gone"
    assert environments.outdated(environment("toy")) == why
    assert interpreter("toy") == toy / "bin" / "python", "it still works"
    (row,) = (row for row in list_engines().engines if row.name == "toy")
    assert (row.state, row.outdated) == ("ready", why)
    assert why in make(dry_run=True).findings[0].message
    assert (make().action, in_environment(toy, "import toy_engine; print(toy_engine.version)")) == ("updated", "2.0")
    assert make().action == "kept"
    assert sorted(path.name for path in toy.parent.iterdir()) == [".toy.lock", "toy", "toy.install.log"]

    monkeypatch.setitem(
        catalog.ENGINES, "toy", replace(TOY, install_cpu=("toy-engine==2.0",), also_cpu=("toy-helper",))
    )
    assert environments.outdated(environment("toy")).startswith("what goes in with its requirements")
    assert environments.outdated(environment("toy"), cuda=True) == "it was made for cpu, cuda is asked for"


def test_records_of_an_older_llmops_are_judged_by_their_requirements(toy):
    toy.mkdir(parents=True)
    (toy / MARKER).write_text(json.dumps({"requirements": ["toy-engine==1.0"], "installer": "pip"}))
    assert environments.outdated(environment("toy")) is None
    (toy / MARKER).write_text(json.dumps({"requirements": ["toy-engine==0.9"], "installer": "pip"}))
    assert "toy-engine==0.9 is gone" in environments.outdated(environment("toy"))


def test_a_package_that_cannot_be_had_is_an_outside_error_and_leaves_no_ready_environment(toy, monkeypatch):
    monkeypatch.setitem(catalog.ENGINES, "toy", replace(TOY, install_cpu=("toy-engine==99",)))
    with pytest.raises(OutsideError, match="No matching distribution") as caught:
        make()
    assert "log" in caught.value.hint
    assert environment("toy").state == "broken"


def test_a_dry_run_changes_nothing(toy):
    report = make(dry_run=True)
    assert report.action == "planned"
    assert not toy.parent.exists()
    assert any("--no-deps toy-engine==1.0" in step for step in report.steps)


def test_a_full_disk_is_refused_before_anything_is_written(toy, monkeypatch):
    monkeypatch.setattr(installation, "FREE_BYTES", 10**18)
    with pytest.raises(MachineError, match="free on the disk") as caught:
        make()
    assert "LLMOPS_ENGINES_DIR" in caught.value.hint
    assert not toy.exists()


def test_uv_gets_pips_sources(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    (tmp_path / "pip.conf").write_text(
        f"[global]\nfind-links = {tmp_path}\nextra-index-url = https://one.example/simple\n  https://two.example/simple\n"
    )
    sources = recipe.uv_sources()
    assert sources[:2] == ("--find-links", str(tmp_path))
    assert sources.count("--extra-index-url") == 2
    assert sources[-2:] == ("--index-strategy", "unsafe-best-match")
    monkeypatch.setenv("UV_FIND_LINKS", "elsewhere")
    assert "--find-links" not in recipe.uv_sources()


def test_uv_leaves_out_by_override(tmp_path):
    steps = recipe.steps(TOY, tmp_path, TOY.install_cpu, "uv", cuda=False)
    install_step = next(step for step in steps if step.argv[:1] == ("uv",))
    assert "--override" in install_step.argv
    next(step for step in steps if "left out" in step.what).act()
    assert (tmp_path / "overrides.txt").read_text() == 'toy-cuda ; python_version < "0"\n'


def test_on_cuda_machines_nothing_is_left_out(tmp_path):
    steps = recipe.steps(catalog.ENGINES["vllm"], tmp_path, ("vllm",), "pip", cuda=True)
    assert [step.argv[-2:] for step in steps[1:]] == [("install", "vllm")]


def test_the_interpreter_is_the_flags_then_the_settings_then_the_engines_own(toy, monkeypatch, tmp_path):
    with pytest.raises(MachineError, match="not installed") as caught:
        interpreter("toy")
    assert caught.value.hint == "llmops engines install toy"
    monkeypatch.setenv("LLMOPS_ENGINE_PYTHON_TOY", sys.executable)
    settings.cache_clear()
    assert interpreter("toy") == Path(sys.executable)
    other = tmp_path / "env" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.symlink_to(sys.executable)
    assert interpreter("toy", tmp_path / "env") == other
    with pytest.raises(UsageError, match="not an executable"):
        interpreter("toy", tmp_path / "nothing")


def test_every_engine_is_complete_data():
    for name, spec in catalog.ENGINES.items():
        assert spec.name == name
        assert spec.modules
        assert (spec.home == "environment") == bool(spec.install_cpu or spec.needs_gpu)
        assert (spec.home == "base") == bool(spec.extra)


def test_the_command_lists_and_checks(llmops, tmp_path):
    env = {"LLMOPS_ENGINES_DIR": str(tmp_path)}
    (tmp_path / "vllm").mkdir()
    listed = {row["name"]: row["state"] for row in llmops("engines", "list", "--json", env=env).json["data"]["engines"]}
    assert listed["vllm"] == "broken"
    assert listed["triton"] == "missing"
    checked = llmops("engines", "check", "llamacpp", "--json", env=env)
    if listed["llamacpp"] == "ready":
        (one,) = checked.json["data"]["engines"]
        assert one["import_error"] is None
        assert one["python"] == sys.executable
    assert llmops("engines", "check", "vllm", env=env).code == 3


def test_refusals_of_the_command(llmops, tmp_path):
    env = {"LLMOPS_ENGINES_DIR": str(tmp_path)}
    unknown = llmops("engines", "install", "vlm", env=env)
    assert (unknown.code, unknown.error_lines[1]) == (2, "hint: did you mean 'vllm'?")
    base = llmops("engines", "install", "llamacpp", env=env)
    assert base.code == 2
    assert "pip install" in base.stderr
    assert (
        json.loads(llmops("engines", "install", "vllm", "-n", "--json", env=env).stdout)["data"]["action"] == "planned"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_that_is_none_gives_no_answer(tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    fake.chmod(0o755)
    with pytest.raises(OutsideError, match="broken"):
        probe(catalog.ENGINES["vllm"], fake)


def test_the_environments_module_reads_the_settings(toy):
    assert environments.root() == toy.parent
