"""``llmops diagnose`` and ``llmops doctor`` as a user runs them."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.diagnosis import docs
from llmops.diagnosis.rules import rule_book

OCCUPIED = (
    "INFO 05-01 10:00:00 [utils.py:233] non-default args: {'model': 'x'}\n"
    "(EngineCore pid=9) ERROR 05-01 10:00:09 [core.py:1] ValueError: Free memory on device cuda:0 (59.32/79.15 GiB) on startup"
    " is less than desired GPU memory utilization (0.9, 71.24 GiB). Decrease GPU memory utilization or reduce GPU memory"
    " used by other processes.\n"
    "RuntimeError: Engine core initialization failed. See root cause above.\n"
)


def llmops(*arguments, stdin=None, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-m", "llmops", *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **(env or {})},
    )


def diagnosed(*arguments, **options):
    done = llmops("diagnose", *arguments, "--json", "-q", **options)
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "vllm.log"
    path.write_text(OCCUPIED)
    return path


def test_a_cause_with_its_line_and_a_computed_flag(log):
    code, document = diagnosed(str(log))
    assert code == 1
    assert document["schema"] == "llmops.diagnose/1"
    assert document["data"]["status"] == "failed"
    (finding,) = document["data"]["findings"]
    assert finding["cause"] == "gpu-memory-occupied"
    assert finding["family"] == "gpu-memory"
    assert finding["confidence"] > 0.9
    assert finding["evidence"][0]["file"] == str(log)
    assert finding["evidence"][0]["line"] == 2
    assert finding["evidence"][0]["text"] in OCCUPIED.split("\n")[1]
    assert finding["fixes"][0]["command"] == "--gpu-memory-utilization 0.74"
    assert finding["fixes"][0]["values"]["free"] == "59.32"
    assert any("engine process ended" in text for text in finding["explains"])


def test_a_healthy_log_is_no_and_an_unknown_failure_is_six(tmp_path):
    healthy = tmp_path / "ok.log"
    healthy.write_text("INFO:     Application startup complete.\n" * 3)
    code, document = diagnosed(str(healthy))
    assert (code, document["data"]["status"], document["ok"]) == (0, "healthy", True)
    unknown = tmp_path / "unknown.log"
    unknown.write_text(
        'Traceback (most recent call last):\n  File "x.py", line 1\nWeirdError: flux capacitor is empty\n'
    )
    code, document = diagnosed(str(unknown))
    assert (code, document["data"]["status"], document["data"]["findings"]) == (6, "unknown", [])
    assert [line["line"] for line in document["data"]["unexplained"]] == [1, 3]
    unknown.write_text("loading model\nflux.WeirdError: flux capacitor is empty\n")
    code, document = diagnosed(str(unknown))
    assert (code, document["data"]["unexplained"][0]["text"]) == (6, "flux.WeirdError: flux capacitor is empty")


def test_stdin_and_two_files(log, tmp_path):
    code, document = diagnosed("-", stdin=OCCUPIED.encode())
    assert (code, document["data"]["findings"][0]["evidence"][0]["file"]) == (1, "-")
    other = tmp_path / "dmesg.txt"
    other.write_text("NVRM: Xid (PCI:0000:18:00): 79, pid='<unknown>', GPU has fallen off the bus.\n")
    code, document = diagnosed(str(log), str(other))
    assert {f["cause"] for f in document["data"]["findings"]} == {"gpu-memory-occupied", "gpu-fell-off-bus"}


def test_the_table_for_people_ends_with_the_verdict(log):
    done = llmops("diagnose", str(log), "-q")
    assert done.returncode == 1
    text = done.stdout.decode()
    assert "--gpu-memory-utilization 0.74" in text
    assert f"{log}:2:" in text.replace("\n", "")
    assert text.strip().splitlines()[-1].startswith("gpu-memory-occupied:")


@pytest.mark.parametrize("form", ["gzip", "utf-16", "crlf", "json lines", "colours"])
def test_every_form_of_the_same_log(form, tmp_path):
    path = tmp_path / "form.log"
    if form == "gzip":
        path.write_bytes(gzip.compress(OCCUPIED.encode()))
    elif form == "utf-16":
        path.write_bytes(OCCUPIED.encode("utf-16"))
    elif form == "crlf":
        path.write_bytes(OCCUPIED.replace("\n", "\r\n").encode())
    elif form == "json lines":
        path.write_text("".join(json.dumps({"level": "ERROR", "message": m}) + "\n" for m in OCCUPIED.splitlines()))
    else:
        path.write_text(OCCUPIED.replace("Free memory", "\x1b[1;31mFree\x1b[0m memory"))
    code, document = diagnosed(str(path))
    assert code == 1
    finding = document["data"]["findings"][0]
    assert finding["cause"] == "gpu-memory-occupied"
    assert finding["evidence"][0]["line"] == 2
    assert "\x1b" not in finding["evidence"][0]["text"]
    assert finding["fixes"][0]["command"] == "--gpu-memory-utilization 0.74"


def test_reports_for_ci_name_the_line_of_the_log(log, tmp_path):
    sarif, junit, page = tmp_path / "o.sarif", tmp_path / "o.xml", tmp_path / "o.md"
    done = llmops(
        "diagnose", str(log), "-q", "--report", str(sarif), "--report", str(junit), "--report", str(page),
        env={"GITHUB_ACTIONS": "true"},
    )  # fmt: skip
    assert done.returncode == 1
    result = json.loads(sarif.read_text())["runs"][0]["results"][0]
    assert result["ruleId"] == "gpu-memory-occupied"
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 2
    assert "gpu-memory-occupied" in junit.read_text()
    assert "0.74" in page.read_text()
    assert re.search(r"::error .*line=2", done.stderr.decode())


def test_explain_and_list():
    done = llmops("diagnose", "--explain", "shm-too-small", "-q")
    assert done.returncode == 0
    assert b"--shm-size" in done.stdout
    done = llmops("diagnose", "--list", "--json", "-q")
    listed = [cause["cause"] for cause in json.loads(done.stdout)["data"]["causes"]]
    assert listed == [rule.cause for rule in rule_book().rules]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--explain", "shm-to-small"), "shm-too-small"),
        (("/no/such.log",), "No such file"),
        (("--state", "/no/state.json"), "llmops doctor --json"),
        (("--explain", "port-in-use", "--list"), "stands alone"),
        (("x.log", "--fix"), "--machine --fix"),
    ],
)
def test_bad_input_is_refused_in_one_line_with_a_hint(arguments, says):
    done = llmops("diagnose", *arguments, "-q")
    assert done.returncode == 2
    lines = done.stderr.decode().strip().splitlines()
    assert len(lines) == 2
    assert says in " ".join(lines)


def test_doctor_says_plainly_what_is_there(tmp_path):
    done = llmops("doctor", "--json", "-q", env={"HF_HUB_OFFLINE": "1"})
    document = json.loads(done.stdout)
    assert document["schema"] == "llmops.doctor/1"
    checks = {check["name"]: check for check in document["data"]["checks"]}
    assert {"driver", "memory", "shared-memory", "open-files", "disk", "ports", "clock", "packages"} <= set(checks)
    assert not [check for check in checks.values() if check["outcome"] == "crashed"]
    state = tmp_path / "state.json"
    state.write_bytes(done.stdout)
    log = tmp_path / "serve.log"
    log.write_text("RuntimeError: No CUDA GPUs are available\n")
    code, with_state = diagnosed(str(log), "--state", str(state))
    assert code == 1
    assert with_state["data"]["findings"][0]["cause"] == "no-gpu-visible"


def test_no_input_examines_this_machine():
    done = llmops("diagnose", "-q", env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode in (0, 1)
    assert b"open-files" in done.stdout


def test_the_page_of_all_causes_is_current():
    page = Path(__file__).parents[2] / "docs" / "diagnose.md"
    assert page.read_text() == docs.render(), "python -m llmops.diagnosis.docs > docs/diagnose.md"


def test_commands_of_llmops_in_fixes_exist():
    from llmops.cli.main import VERBS

    for rule in rule_book().rules:
        for fix in rule.fixes:
            verb = re.match(r"llmops (\w+)", fix.command or "")
            assert verb is None or verb[1] in VERBS, fix.command
