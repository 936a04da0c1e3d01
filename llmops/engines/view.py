"""Engines for people."""

from __future__ import annotations

from llmops.engines.catalog import ENGINES
from llmops.engines.checking import CheckReport, EngineCheck, ListReport
from llmops.engines.installation import InstallReport, has_cuda_gpu
from llmops.report.document import Block, Code, Document, Facts, Heading, Table, Text
from llmops.report.told import told
from llmops.units import format_duration


def view_list(report: ListReport) -> Document:
    """A table of engines."""
    states = {row.name: "outdated" if row.outdated else row.state for row in report.engines}
    rows = tuple((row.name, states[row.name], row.version or "-", row.purpose) for row in report.engines)
    cuda = has_cuda_gpu()
    missing = [row.name for row in report.engines if row.state != "ready" and (cuda or not ENGINES[row.name].needs_gpu)]
    verdict = Text(f"install one with: llmops engines install {missing[0]}", "dim") if missing else None
    return Document(
        "engines", (Table(("engine", "state", "version", "purpose"), rows), *told(report.findings)), verdict
    )


def view_install(report: InstallReport) -> Document:
    """What was done, or would be."""
    facts = [("environment", report.path), ("for", report.variant), ("installer", report.installer)]
    if report.check is not None:
        facts += [("version", report.check.version or "?"), ("took", format_duration(report.seconds))]
    blocks: list[Block] = [Facts(tuple(facts))]
    if report.action == "planned":
        blocks += told(report.findings)
        blocks.append(Code("\n".join(report.steps), "sh"))
        return Document(f"engine {report.engine}", tuple(blocks), Text("nothing was changed", "dim"))
    return Document(
        f"engine {report.engine}", tuple(blocks), Text(f"{report.engine} is ready ({report.action})", "good")
    )


def view_check(report: CheckReport) -> Document:
    """Versions and the requirements that do not fit."""
    blocks: list[Block] = []
    for each in report.engines:
        blocks += _one(each)
    blocks += told(report.findings)
    working = sum(each.works for each in report.engines)
    verdict = Text(f"{working} of {len(report.engines)} engines work", "good" if report.ok else "bad")
    return Document("engines", tuple(blocks), verdict)


def _one(each: EngineCheck) -> list[Block]:
    state = f"works (imported in {each.import_s:.1f} s)" if each.works else "cannot be imported"
    met = sum(pin.fits for pin in each.pins)
    left_out = [pin.requires for pin in each.pins if pin.left_out]
    fit = f"{met} of {len(each.pins)} met" + (f"; left out on purpose: {', '.join(left_out)}" if left_out else "")
    facts = (
        ("engine", f"{each.engine} {each.version or '?'}: {state}"),
        ("interpreter", f"{each.python} ({each.python_version})"),
        ("requirements", fit),
    )
    named = ("torch", "transformers", "numpy", "gptqmodel", "optimum", "bitsandbytes", "compressed-tensors")
    rows = tuple((pin.distribution, pin.requires + pin.specifier, pin.installed or "-", "yes" if pin.fits else
                  "left out" if pin.left_out else "NO")
                 for pin in each.pins if pin.requires in named or not pin.fits)  # fmt: skip
    blocks: list[Block] = [Heading(each.engine), Facts(facts)]
    if rows:
        blocks.append(Table(("package", "requires", "installed", "fits"), rows))
    return blocks
