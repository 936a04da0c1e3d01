"""What each step of a recipe does: build the verb's spec, call its one function, keep what later steps need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llmops.errors import UsageError
from llmops.pipeline import pages
from llmops.pipeline.export_steps import build_step, export_step, triton_step
from llmops.pipeline.rundir import discard, fingerprint, model_fingerprint, recall, remember
from llmops.pipeline.spec import ChatStep, ModelStep, PriceStep, Step
from llmops.pipeline.state import Run, StepReport
from llmops.report.document import Document
from llmops.report.files import data_of


def model_step(step: Step, run: Run) -> StepReport:
    """Find the model; a GGUF file that a package carries is converted once and kept."""
    from llmops.checkpoint import sources
    from llmops.settings import settings

    spec = ModelStep.model_validate(step.options)
    wanted = (
        [sources.parse_source(run.wanted_model)] if run.wanted_model else [each.as_source() for each in spec.sources]
    )
    found = sources.resolve(
        wanted,
        settings().cache_dir,
        run.progress,
        as_directory=spec.as_directory,
        connect_timeout_s=settings().hub_timeout_s,
    )
    run.base = run.model = found.path
    return StepReport("model", pages.model_line(found), data=found, blocks=pages.model(found))


def inspect_step(_step: Step, run: Run) -> StepReport:
    """Facts of the current model."""
    from llmops.checkpoint import inspect

    path = run.need_model("inspect")
    report = inspect.inspect(path)
    line = pages.inspect_line(report.facts) if isinstance(report, inspect.InspectReport) else path.name
    return _of("inspect", report, inspect.view(report), line)


def plan_step(step: Step, run: Run) -> StepReport:
    """How this machine would serve the current model."""
    from llmops.checkpoint import read_model
    from llmops.hardware import detect
    from llmops.planning.command import PlanReport
    from llmops.planning.plan import plan
    from llmops.planning.types import PlanSpec
    from llmops.planning.view import view

    facts = read_model(run.need_model("plan"))
    report = PlanReport(plan(PlanSpec.model_validate(step.options), [facts], detect()), explain=True)
    return _of("plan", report, view(report), pages.plan_line(report.plan))


def quantize_step(step: Step, run: Run) -> StepReport:
    """Quantise the current model, unless an earlier run left the same; the copy becomes the current model."""
    from llmops.quantize.run import quantize
    from llmops.quantize.spec import QuantizeSpec
    from llmops.quantize.view import view

    base = run.need_model("quantize")
    out = run.directory / "quantized"
    record = run.directory / "quantize.json"
    key = fingerprint(step.options, model_fingerprint(base))
    kept = recall(record, key)
    if kept is not None and out.is_dir():
        run.model = out
        return pages.step_from_record("quantize", kept)
    for leftover in (record, out):
        discard(leftover)
    spec = QuantizeSpec.model_validate({"model": str(base), "out": out} | dict(step.options))
    report = quantize(spec, run.progress)
    done = _of("quantize", report, view(report), pages.quantize_line(report))
    if report.ok:
        run.model = out
        remember(record, key, pages.record_of(done))
    return done


def evaluate_step(step: Step, run: Run) -> StepReport:
    """Compare the current model with the one the run began with."""
    from llmops.quantize.evaluation import evaluate
    from llmops.quantize.spec import EvaluateSpec
    from llmops.quantize.view import evaluate_view

    flows = {"model": str(run.need_model("evaluate")), "against": str(run.base)}
    report = evaluate(EvaluateSpec.model_validate(flows | dict(step.options)), run.progress)
    return _of("evaluate", report, evaluate_view(report), pages.evaluate_line(report))


def serve_step(step: Step, run: Run) -> StepReport:
    """Start an endpoint that stays until the run ends."""
    from llmops.serve import ServeSpec, start

    log = run.directory / "server.log"
    discard(log)
    flows: dict[str, Any] = {"model": run.need_model("serve"), "port": 0, "log": log}
    spec = ServeSpec.model_validate(flows | dict(step.options))
    run.server = run.stack.enter_context(start(spec, run.progress))
    return StepReport(
        "serve", pages.serve_line(run.server), data=pages.serve_data(run.server), blocks=pages.serve(run.server)
    )


def chat_step(step: Step, run: Run) -> StepReport:
    """Ask the served model real questions."""
    from llmops.pipeline.chat import ask

    spec = ChatStep.model_validate(step.options)
    server = run.need_server("chat")
    count = f"{len(spec.questions)} question{'s' * (len(spec.questions) != 1)}"
    run.progress.phase(f"asking {count}")
    exchanges = ask(server.url, server.model_name, spec)
    empty = sum(not exchange.answer for exchange in exchanges)
    line = f"{count} answered" + (f", {empty} of them with nothing" if empty else "")
    return StepReport("chat", line, ok=empty < len(exchanges), data=exchanges, blocks=pages.chat(exchanges))


def bench_step(step: Step, run: Run) -> StepReport:
    """Measure the endpoint under one load."""
    from llmops.bench import BenchSpec, bench, view

    flows: dict[str, Any] = {}
    if "url" not in step.options:
        server = run.need_server("bench")
        flows = {"url": server.url, "model": server.model_name}
    report = bench(BenchSpec.model_validate(flows | dict(step.options)), run.progress)
    run.benches.append(report)
    return _of("bench", report, view(report), pages.bench_line(report), extra=pages.bench_charts(run.benches))


def diagnose_step(_step: Step, run: Run) -> StepReport:
    """Read the server's log; anything but "healthy" makes the answer no."""
    from llmops.diagnosis import diagnose_files
    from llmops.diagnosis.view import view

    report = diagnose_files([run.need_server("diagnose").log_path], run.progress)
    return _of("diagnose", report, view(report), pages.diagnose_line(report))


def price_step(step: Step, run: Run) -> StepReport:
    """Price the load with the highest throughput."""
    from llmops.pipeline.cost import price_load

    if not run.benches:
        raise UsageError("the step 'price' has no measured load", "put a 'bench' step before it")
    cost = price_load(run.benches, PriceStep.model_validate(step.options))
    return StepReport("price", pages.price_line(cost), data=cost, blocks=pages.price(cost))


def _of(verb: str, report: Any, document: Document, line: str, extra: tuple[Any, ...] = ()) -> StepReport:
    return StepReport(
        verb, line, ok=report.ok, data=data_of(report), blocks=document.blocks + extra, findings=report.findings
    )


FUNCTIONS: Final[dict[str, Callable[[Step, Run], StepReport]]] = {
    "model": model_step,
    "inspect": inspect_step,
    "plan": plan_step,
    "quantize": quantize_step,
    "evaluate": evaluate_step,
    "export": export_step,
    "build": build_step,
    "triton": triton_step,
    "serve": serve_step,
    "chat": chat_step,
    "bench": bench_step,
    "diagnose": diagnose_step,
    "price": price_step,
}
