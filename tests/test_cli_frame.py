"""Every command: cheap to start, its help on one screen with an example, its usage errors in one form."""

import importlib
import json
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llmops.cli.main import VERBS
from llmops.docs import PAGES, _commands
from llmops.errors import MachineError
from llmops.extras import EXTRA_OF, require

REPO = Path(__file__).parent.parent
HEAVY = ("pydantic", "rich", "httpx", "torch", "yaml", "msgspec", "uvicorn", "starlette", "psutil", "pynvml", "numpy")


def help_texts():
    import typer

    from llmops.cli.main import app

    return dict(_commands(typer.main.get_command(app), "llmops"))


HELP = help_texts()
GROUPS = {path for path in HELP if any(other.startswith(path + " ") for other in HELP)}
LEAVES = sorted(set(HELP) - GROUPS)


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nsys.argv = ['llmops', '--help']\nfrom llmops.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert done.stdout.startswith("Usage: llmops")


def test_help_costs_at_most_a_quarter_cpu_second():
    """CPU seconds, not wall: the best of three, because a cold file cache is not the command's fault."""
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "llmops", "--help"], capture_output=True, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) <= 0.25


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_module_registers(verb):
    assert callable(importlib.import_module(f"llmops.cli.{verb}").register)


@pytest.mark.parametrize("path", sorted(HELP))
def test_help_fits_a_screen_and_shows_an_example(path):
    lines = HELP[path].splitlines()
    assert len(lines) <= 54, f"{len(lines)} lines"
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage")]
    assert all(len(line) <= 80 for line in lines)
    assert "Example: llmops" in HELP[path]


@pytest.mark.parametrize("path", LEAVES)
def test_unknown_option_is_one_line_a_hint_and_exit_2(path, llmops):
    result = llmops(*path.split()[1:], "--no-such-option", "--json")
    assert result.code == 2
    assert len(result.error_lines) == 2, result.stderr
    assert result.error_lines[1].startswith("hint:")
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["error"]["exit_code"] == 2


def test_unknown_command_suggests_the_nearest(llmops):
    result = llmops("quantise")
    assert (result.code, result.error_lines) == (
        2,
        ["error: No such command 'quantise'", "hint: did you mean 'quantize'?"],
    )


def test_no_command_shows_the_help(llmops):
    result = llmops()
    assert result.code == 2
    assert "Usage: llmops" in result.stderr


def test_version(llmops):
    from llmops import __version__

    assert llmops("--version").stdout == f"llmops {__version__}\n"


def test_documentation_is_current():
    done = subprocess.run([sys.executable, "-m", "llmops.docs", "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", PAGES.values())
def test_every_generated_page_has_its_function(source):
    module, _, name = source.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_every_optional_module_has_its_extra():
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in EXTRA_OF.items():
        assert extra in extras, f"{module} names the extra {extra!r}, which is not in pyproject.toml"


def test_a_missing_extra_is_one_line_with_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MachineError) as caught:
        require("bitsandbytes", "quantising to nf4")
    assert caught.value.exit_code == 3
    assert caught.value.hint == "pip install 'llmops[bnb]'"


def test_a_broken_extra_says_what_is_broken(tmp_path, monkeypatch):
    (tmp_path / "broken_extra.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MachineError, match=r"cannot be imported: libcudart\.so\.12"):
        require("broken_extra", "this test")
