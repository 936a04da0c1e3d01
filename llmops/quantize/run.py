"""``quantize``: gather the facts, plan, run the engine, check the result, give it its name."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from pathlib import Path
from typing import Any

from llmops import __version__
from llmops.checkpoint.convert import share
from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.reader import read_model
from llmops.errors import OutsideError
from llmops.findings import Finding
from llmops.hardware.detect import detect
from llmops.progress import Progress
from llmops.quantize import card, child, options, preflight
from llmops.quantize.compare import Comparing, compare, shortage
from llmops.quantize.gate import Gate, judge
from llmops.quantize.material import calibration_text, evaluation_text
from llmops.quantize.methods import ENGINES, METHODS
from llmops.quantize.plan import Materials, QuantizePlan, method_of, plan_quantize
from llmops.quantize.refusals import raise_first
from llmops.quantize.report import Comparison, QuantizeReport
from llmops.quantize.runtime import choose_engine, find_runtime
from llmops.quantize.source import Source, convert, resolve
from llmops.quantize.spec import QuantizeSpec
from llmops.quantize.workspace import Workspace, existing_parent, refuse_existing
from llmops.report.files import envelope, write_whole

REPORT_NAME = "llmops-quantize.json"


def plan_or_quantize(spec: QuantizeSpec, progress: Progress, *, dry_run: bool) -> QuantizePlan | QuantizeReport:
    """What the command does: the plan alone, or all of it. Raises as ``quantize`` does."""
    return _gather(spec, progress)[0] if dry_run else quantize(spec, progress)


def dry_run(spec: QuantizeSpec, progress: Progress) -> QuantizePlan:
    """Everything that is decided before the work, and nothing of the work.

    Raises:
        UsageError: The input is refused.
        MachineError: This machine cannot.
    """
    return _gather(spec, progress)[0]


def quantize(spec: QuantizeSpec, progress: Progress) -> QuantizeReport:
    """Quantise, compare with the original, and publish or reject the result.

    Raises:
        UsageError: The input is refused before any work.
        MachineError: The machine cannot, or the engine ran out of memory or disk.
        OutsideError: The engine failed.
    """
    plan, source, materials = _gather(spec, progress)
    for finding in plan.findings:
        if finding.severity == "warning":
            progress.note(f"warning: {finding.message}; {finding.remedy}")
    with Workspace(spec.out, force=spec.force) as work:
        if source.facts.format == "gguf":
            source = convert(source, work.job, progress)
            plan = plan_quantize(spec, source.facts, materials)
        result = _run_engine(plan, source, work, progress)
        _finish_files(source.path, work.model)
        made = _verify(work.model)
        comparison = _compare(spec, plan, source, work, progress)
        report = _report(plan, source, made, result, comparison)
        report = report.at(spec.out if report.ok else work.rejected)
        _write_records(report, work.model, with_card=spec.model_card)
        if report.ok:
            work.publish()
        else:
            work.reject()
    return report


def _gather(spec: QuantizeSpec, progress: Progress) -> tuple[QuantizePlan, Source, Materials]:
    """Read what a plan needs, cheapest refusals first."""
    progress.phase("Checking the model, the text and this machine")
    refuse_existing(spec.out, force=spec.force)
    host = detect(sample_s=0)  # how busy the cores are now decides nothing here
    name, _ = method_of(spec, host)
    method = METHODS[name]
    raise_first(list(options.check_options(spec, method)))
    text = calibration_text(spec.calibration) if method.calibrated else None
    eval_text = evaluation_text(spec.quality.eval_text) if spec.gate else None
    source = resolve(spec.model, progress)
    place = Workspace(spec.out)
    taken = (each.resolve() for each in (place.out, place.partial, place.rejected))
    raise_first(
        [
            *preflight.check_place(spec, source.path.resolve(), taken),
            *preflight.check_model(spec, method, source.facts),
        ]
    )
    runtime = find_runtime(choose_engine(method, spec.engine), spec.engine_python)
    free = shutil.disk_usage(existing_parent(spec.out)).free
    materials = Materials(host, runtime, text, eval_text, free)
    return plan_quantize(spec, source.facts, materials), source, materials


def _run_engine(plan: QuantizePlan, source: Source, work: Workspace, progress: Progress) -> dict[str, Any]:
    scratch = work.job.absolute() / "scratch"
    scratch.mkdir()
    job: dict[str, Any] = {
        "model": str(source.path.absolute()),
        "out": str(work.model.absolute()),
        "scratch": str(scratch),
        "method": plan.method,
        "bits": plan.bits,
        "group_size": plan.group_size,
        "desc_act": plan.desc_act,
        "device": plan.device,
        "dtype": plan.dtype,
        "threads": plan.threads,
        "seed": plan.seed,
        "layers": plan.layers,
    }
    if plan.text is not None:
        job["calibration"] = {
            "file": str(plan.text.path.absolute()),
            "samples": plan.samples,
            "seq_len": plan.seq_len,
            "seed": plan.seed,
            "floor_tokens": options.FLOOR_TOKENS,
        }
    python = plan.runtime.python
    env = child.environment(plan.threads, python, local=True)
    # What the engine puts into the temporary directory goes away with the job, after a kill too.
    env["TMPDIR"] = str(scratch)
    adapter = ENGINES[plan.engine].adapter
    result = child.run_adapter(adapter, job, python=python, work=work.job, env=env, progress=progress)
    shutil.rmtree(scratch, ignore_errors=True)
    return result


def _finish_files(source: Path, out: Path) -> None:
    """Copy what engines forget: the chat template, generation defaults, licence and notice."""
    names = ("generation_config.json", "chat_template.jinja", "special_tokens_map.json", "tokenizer.model")
    wanted = {path for name in names for path in source.glob(name)}
    for pattern in ("LICENSE*", "LICENCE*", "NOTICE*", "*TERMS*", "USE_POLICY*"):
        wanted |= set(source.glob(pattern))
    for path in wanted:
        if path.is_file() and not (out / path.name).exists():
            shutil.copyfile(path, out / path.name)
    share(out)


def _verify(out: Path) -> ModelFacts:
    """The engine's result from its headers: whole, and quantised.

    Raises:
        OutsideError: It is not.
    """
    made = read_model(out)
    if not made.complete or made.quantization is None:
        what = "is incomplete" if not made.complete else "says nothing of being quantised"
        raise OutsideError(f"the engine reported success, but the checkpoint {what}", "run it again with -v")
    return made


def _compare(
    spec: QuantizeSpec, plan: QuantizePlan, source: Source, work: Workspace, progress: Progress
) -> Comparison | None:
    if plan.eval_text is None:
        return None
    how = Comparing(plan.eval_text, spec.quality, plan.runtime.python, plan.device, plan.dtype, plan.threads, plan.seed)
    return compare(source.path, work.model, how, work=work.job, progress=progress)


def _report(
    plan: QuantizePlan, source: Source, made: ModelFacts, result: dict[str, Any], comparison: Comparison | None
) -> QuantizeReport:
    gate, findings = Gate(None, None), (*plan.findings, *_text_found(plan, result))
    if comparison is not None and plan.limits is not None:
        gate, judged = judge(comparison.quality, plan.limits)
        findings = (*judged, *findings, *shortage(plan.quality, comparison))
    text = plan.text
    return QuantizeReport(
        ok=gate.passed is not False,
        findings=findings,
        model=plan.model,
        out=plan.out,
        method=plan.method,
        engine=plan.engine,
        bits=plan.bits,
        group_size=plan.group_size,
        desc_act=plan.desc_act,
        before_bytes=source.facts.size_bytes,
        after_bytes=made.size_bytes,
        seconds=result["seconds"],
        cpu_seconds=result["cpu_seconds"],
        phases_s=tuple((name, round(value, 3)) for name, value in result["phases_s"].items()),
        peak_rss_bytes=result["peak_rss_bytes"],
        device_peak_bytes=result.get("device_peak_bytes"),
        versions=(("llmops", __version__), *sorted(result["versions"].items())),
        seed=plan.seed,
        threads=plan.threads,
        device=plan.device,
        calibration=None
        if text is None
        else {"name": text.name, "sha256": text.sha256, **result.get("calibration", {}), "seq_len": plan.seq_len},
        worst_losses=_worst(result.get("losses", [])),
        weights_sha256=_digest(made),
        gate=gate,
        comparison=comparison,
        serve_command=serve_command(plan),
    )


def _text_found(plan: QuantizePlan, result: dict[str, Any]) -> tuple[Finding, ...]:
    """What the plan could not know of the calibration text: how many tokens it gives."""
    if plan.text is None or (rows := result["calibration"]["rows"]) >= plan.samples:
        return ()
    had = f"--calibration {plan.text.name} gives {rows} rows of {plan.seq_len} tokens, not {plan.samples}"
    short = Finding("calibration-short", "note", had, "add text, or ask for fewer --samples")
    known = any(finding.rule == "calibration-small" for finding in plan.findings)
    small = [] if known else preflight.little_text(result["calibration"]["tokens"], "add text")
    return (short, *small)


def serve_command(plan: QuantizePlan) -> str:
    """What serves the result."""
    return f"llmops serve {shlex.quote(str(plan.out))} --engine {plan.serve_with}"


def _worst(losses: list[dict[str, Any]], count: int = 5) -> tuple[tuple[str, float], ...]:
    known = [(f"{row['layer']}.{row['module']}", float(row["loss"])) for row in losses if row.get("loss") is not None]
    return tuple(sorted(known, key=lambda pair: -pair[1])[:count])


def _digest(made: ModelFacts) -> str:
    """SHA-256 over the weight files in order of their names: equal bytes, equal digest."""
    digest = hashlib.sha256()
    for path in sorted(made.path.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _write_records(report: QuantizeReport, out: Path, *, with_card: bool) -> None:
    write_whole(out / REPORT_NAME, envelope("quantize", report) + "\n")
    if with_card:
        write_whole(out / "README.md", card.model_card(report))
