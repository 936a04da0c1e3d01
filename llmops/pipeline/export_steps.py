"""The steps export, build and triton: each later one takes what the one before left."""

from __future__ import annotations

import shutil

from llmops.pipeline.rundir import discard
from llmops.pipeline.spec import Step
from llmops.pipeline.state import Run, StepReport
from llmops.report.files import data_of


def export_step(step: Step, run: Run) -> StepReport:
    """Export the current model to ONNX; the exported directory becomes the current model."""
    from llmops.export import OnnxSpec, export_onnx, view_onnx

    out = run.directory / "onnx"
    shutil.rmtree(out.with_name("onnx.rejected"), ignore_errors=True)
    spec = OnnxSpec.model_validate({"model": run.need_model("export"), "out": out, "force": True} | dict(step.options))
    report = export_onnx(spec, run.progress)
    document = view_onnx(report)
    if report.ok:
        run.model = report.out
    line = document.verdict.text if document.verdict else ""
    return StepReport(
        "export", line, ok=report.ok, data=data_of(report), blocks=document.blocks, findings=report.findings
    )


def build_step(step: Step, run: Run) -> StepReport:
    """Build an engine beside the exported graph."""
    from llmops.export import EngineBuildSpec, build_tensorrt, view_tensorrt

    onnx = run.need_model("build")
    flows = {"onnx": onnx, "out": onnx / "model.plan", "force": True}
    report = build_tensorrt(EngineBuildSpec.model_validate(flows | dict(step.options)), run.progress)
    document = view_tensorrt(report)
    line = document.verdict.text if document.verdict else ""
    return StepReport(
        "build", line, ok=report.ok, data=data_of(report), blocks=document.blocks, findings=report.findings
    )


def triton_step(step: Step, run: Run) -> StepReport:
    """Serve the exported model with Triton until the run ends; ready means that every model has answered once."""
    from llmops.hardware import detect
    from llmops.report.document import Table, Text
    from llmops.serve.triton import TritonSpec, decide, running
    from llmops.serve.triton.first import PROMPT
    from llmops.serve.triton.serve import ready_data

    log = run.directory / "triton.log"
    discard(log)
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    flows = {"model": run.need_model("triton"), "repository": run.directory / "model_repository", "log": log} | ports
    spec = TritonSpec.model_validate(flows | dict(step.options))
    server = run.stack.enter_context(running(decide(spec, detect()), run.progress, log))
    line = f"{len(server.states)} models ready after {server.ready_s:.1f} s ({server.decision.middle})"
    rows = tuple((name, state, server.answers.get(name, "")) for name, state in sorted(server.states.items()))
    asked = Table(("model", "state", f"answer to {PROMPT!r}"), rows, title="Triton")
    again = Text(f"to serve it for longer: llmops serve --engine triton --repository {server.decision.repository}")
    data = ready_data(server) | {"states": server.states, "answers": server.answers}
    return StepReport("triton", line, data=data, blocks=(asked, again))
