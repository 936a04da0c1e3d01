"""GGUF to a Hugging Face directory, so that every other part can work with the model."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmops import __version__, extras, process
from llmops.checkpoint import sidecars
from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.reader import read_model
from llmops.errors import LlmopsError, MachineError, OutsideError, UsageError, did_you_mean
from llmops.findings import Finding
from llmops.progress import Progress
from llmops.report.document import Document, Facts, Text
from llmops.units import format_size

CHILD: Final = Path(__file__).with_name("convert_child.py")
DTYPES: Final = ("bfloat16", "float16", "float32")
STAMP: Final = "llmops_source.json"
# Raised when the same file would be converted differently than before.
FORMAT: Final = 2
# Measured: reading a 268 M parameter model peaked at 3.2 GB, 12 bytes a parameter, whatever the target type.
PEAK_BYTES_PER_PARAMETER: Final = 12
BASE_BYTES: Final = 600 * 2**20
# For base models whose file has no template: plain words, since their chat tokens are untrained.
PLAIN_CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}Answer: {{ m['content'] }}\n"
    "{% elif m['role'] == 'system' %}{{ m['content'] }}\n"
    "{% else %}Question: {{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """A finished conversion. ``reused`` says that the directory was there already, made from the same file."""

    source: Path
    out: Path
    size_bytes: int
    dtype: str
    chat_template_added: bool
    licence_files: tuple[str, ...]
    reused: bool
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """A conversion that failed raises."""
        return True


def convert_gguf(
    source: Path,
    out: Path,
    progress: Progress,
    *,
    dtype: str = "bfloat16",
    licence_files: Sequence[Path] = (),
    force: bool = False,
) -> ConvertReport:
    """Convert a GGUF file to a directory with safetensors, config and tokenizer.

    An existing ``out`` made from the same bytes with the same settings is reused. Works in ``out.partial``.

    Args:
        source: The GGUF file.
        out: The directory to make.
        progress: Told of each phase.
        dtype: float32, bfloat16 or float16.
        licence_files: Copied beside the weights, with those that lie beside ``source``.
        force: Replace an ``out`` that was made from something else.

    Raises:
        UsageError: ``source`` is not a whole GGUF file, or ``out`` holds something else.
        MachineError: A package, memory or disk space is missing.
        OutsideError: transformers cannot read this architecture.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r} is not a type to convert to", did_you_mean(dtype, DTYPES))
    facts = _check_source(source)
    progress.phase("Checking the source file")
    stamp = {"sha256": sha256(source), "dtype": dtype, "llmops": __version__, "format": FORMAT}
    if _is_same(out, stamp):
        return _report(source, out, stamp | sidecars.read_json(out / STAMP), reused=True)
    if out.exists() and not force and any(out.iterdir() if out.is_dir() else (out,)):
        raise UsageError(f"{out} exists and was not made from {source.name}", "choose another -o, or add --force")
    _check_machine(facts, out, dtype)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        done = _run_child(source, partial, dtype, _adds_bos(facts), progress)
        copied = _copy_licences(source, licence_files, partial)
        whole = stamp | {"source": source.name, "chat_template_added": done["chat_template_added"], "licences": copied}
        (partial / STAMP).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        share(partial)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return _report(source, out, whole, reused=False)


def share(directory: Path) -> None:
    """Give every file the usual permissions: libraries write weights that only their maker may read, and another user is
    to serve them.
    """
    mask = os.umask(0)
    os.umask(mask)
    for path in directory.iterdir():
        path.chmod(0o666 & ~mask)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def view(report: ConvertReport) -> Document:
    """A short table."""
    rows = [
        ("from", str(report.source)),
        ("to", str(report.out)),
        ("size", f"{format_size(report.size_bytes)}, {report.dtype}"),
        ("chat template", "a plain one was added" if report.chat_template_added else "the model's own"),
        ("licences", ", ".join(report.licence_files) or "none found beside the file"),
    ]
    verdict = "was there already, made from the same file" if report.reused else "converted"
    return Document(report.out.name, (Facts(tuple(rows)),), Text(verdict, "good"))


def _check_source(source: Path) -> ModelFacts:
    facts = read_model(source)
    if facts.format != "gguf":
        raise UsageError(f"{source} is not a GGUF file", "only GGUF needs converting; use the model as it is")
    broken = next((finding for finding in facts.findings if finding.severity == "error"), None)
    if broken:
        raise UsageError(broken.message, broken.remedy)
    for module in ("torch", "transformers", "gguf"):
        extras.require_installed(module, "converting GGUF")
    return facts


def _is_same(out: Path, stamp: Mapping[str, Any]) -> bool:
    known = sidecars.read_optional(out / STAMP)
    same = all(known.get(key) == stamp[key] for key in ("sha256", "dtype", "format"))
    return same and read_model(out).complete


def _check_machine(facts: ModelFacts, out: Path, dtype: str) -> None:
    import psutil

    need = facts.parameters * PEAK_BYTES_PER_PARAMETER + BASE_BYTES
    free = psutil.virtual_memory().available
    if need > free:
        raise MachineError(
            f"converting {facts.name} needs about {format_size(need)} of memory, {format_size(free)} is free",
            "use a machine with more memory, or serve the .gguf file as it is: llmops serve FILE",
        )
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    size = facts.parameters * (4 if dtype == "float32" else 2) * 1.1
    if size > (disk := shutil.disk_usage(parent).free):
        raise MachineError(f"{out} needs {format_size(size)} of disk, {format_size(disk)} is free", "choose another -o")


def _adds_bos(facts: ModelFacts) -> bool:
    return facts.config.get("tokenizer.ggml.add_bos_token") is True


def _run_child(source: Path, partial: Path, dtype: str, add_bos: bool, progress: Progress) -> dict[str, Any]:
    job = {
        "source": str(source.absolute()),
        "out": str(partial.absolute()),
        "dtype": dtype,
        "chat_template": PLAIN_CHAT_TEMPLATE,
        "add_bos": add_bos,
    }
    log = partial.with_name(partial.name + ".log")
    log.unlink(missing_ok=True)
    env = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error"}
    # -P: the modules beside the script must not shadow the standard library.
    command = process.Command((sys.executable, "-P", str(CHILD), json.dumps(job)), log, env)
    done: dict[str, Any] | None = None
    failure = None
    with process.start(command, pipe_stdout=True) as child:
        for line in child.stdout:
            message = json.loads(line)
            if "phase" in message:
                progress.phase(message["phase"])
            failure = message.get("error", failure)
            done = message.get("done", done)
        code = child.wait()
    if done is None or code:
        raise _explain(code, failure, log)
    log.unlink(missing_ok=True)
    return done


def _explain(code: int | None, failure: str | None, log: Path) -> LlmopsError:
    if code == 137:  # SIGKILL without a word is nearly always the kernel's out-of-memory killer
        return MachineError("the conversion was killed, most likely for memory", "free memory, or use a larger machine")
    if failure and "not supported" in failure:
        return OutsideError(f"transformers cannot convert this model: {failure}", "serve the .gguf file as it is")
    last = failure or next(iter(process.tail(log, 1)), f"exit code {code}")
    return OutsideError(f"the conversion failed: {last}", f"the full log is in {log}")


def _copy_licences(source: Path, extra: Sequence[Path], target: Path) -> list[str]:
    beside = [path for path in source.parent.iterdir() if re.match(r"(?i)licen[cs]e|notice|\w*_terms", path.name)]
    copied = []
    for path in sorted({*beside, *extra}):
        if path.is_file() and path.stat().st_size < 2**22:
            shutil.copyfile(path, target / path.name)
            copied.append(path.name)
    return copied


def _report(source: Path, out: Path, stamp: Mapping[str, Any], *, reused: bool) -> ConvertReport:
    licences = stamp.get("licences")
    return ConvertReport(
        source=source,
        out=out,
        size_bytes=sum(path.stat().st_size for path in out.iterdir() if path.is_file()),
        dtype=str(stamp.get("dtype")),
        chat_template_added=stamp.get("chat_template_added") is True,
        licence_files=tuple(str(name) for name in licences) if isinstance(licences, list) else (),
        reused=reused,
    )
