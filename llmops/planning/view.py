"""How a plan is shown."""

from __future__ import annotations

import shlex
from dataclasses import replace

from llmops.planning.command import PlanReport
from llmops.planning.types import ModelPlan, Term
from llmops.report.document import Block, Code, Document, Facts, Heading, Table, Text
from llmops.report.told import told
from llmops.units import counted


def view(report: PlanReport) -> Document:
    """Tables for people."""
    blocks: list[Block] = []
    several = len(report.plan.models) > 1
    for plan in report.plan.models:
        if several:
            blocks.append(Heading(plan.name))
        blocks += view_model(plan, explain=report.explain)
    # What would make it fit stands above already, one a line.
    blocks += told(replace(f, remedy=None) if f.severity == "error" else f for f in report.findings)
    title = f"plan for {report.plan.host}" if several else f"{report.plan.models[0].name} on {report.plan.host}"
    verdict = Text("fits", "good") if report.ok else Text("does not fit", "bad")
    return Document(title, tuple(blocks), verdict)


def view_model(plan: ModelPlan, *, explain: bool) -> list[Block]:
    """One model of a plan."""
    blocks: list[Block] = [Facts(tuple((label, text) for label, text in _rows(plan) if text))]
    if explain:
        rows = tuple((term.name, _value(term), term.formula, term.source) for term in plan.memory.terms)
        blocks.append(Table(("term", "value", "formula", "source"), rows, frozenset({"value"})))
        blocks += [Text(f"- {reason}") for reason in plan.reasons]
    else:
        blocks.append(_memory(plan))
    if plan.remedies:
        blocks.append(Text("what would make it fit:"))
        blocks += [Text(f"- {remedy}") for remedy in plan.remedies]
    if plan.argv and plan.fits:
        env = "".join(f"{name}={shlex.quote(value)} \\\n" for name, value in plan.env.items())
        blocks.append(Code(f"{env}vllm {_wrapped(plan.argv)}", "sh"))
        blocks += _other_replicas(plan)
    return blocks


def _other_replicas(plan: ModelPlan) -> list[Block]:
    """What is different in the commands of the replicas after the first."""
    size = len(plan.gpus) // max(1, plan.replicas)
    if plan.replicas < 2 or not size:
        return []
    places = [
        f"GPU {','.join(map(str, plan.gpus[number * size : (number + 1) * size]))} on port {port}"
        for number, port in enumerate(plan.ports)
    ]
    return [Text(f"and the same for each other replica: {', '.join(places[1:])}")]


def _rows(plan: ModelPlan) -> list[tuple[str, str]]:
    split = f"TP {plan.tensor_parallel}" + (f", PP {plan.pipeline_parallel}" if plan.pipeline_parallel > 1 else "")
    copies = counted(plan.replicas, "replica")
    where = f"{', '.join(map(str, plan.gpus))} ({split}, {copies})" if plan.gpus else "none: CPU"
    tokens = f"{plan.kv_tokens:,}" if plan.kv_tokens is not None else "fixed state a request"
    return [
        ("engine", plan.engine + (f" {plan.engine_version}" if plan.engine_version else "")),
        ("GPUs", where),
        ("threads", str(plan.threads) if plan.threads else ""),
        ("type", plan.dtype + (f", {plan.quantization}" if plan.quantization else "")),
        ("context", f"{plan.max_model_len} tokens"),
        ("sequences", f"{plan.max_num_seqs}, {plan.max_num_batched_tokens} tokens a step"),
        (
            "KV cache",
            f"{tokens} tokens: {plan.max_concurrency:g} full-length requests at once" if plan.max_concurrency else "",
        ),
    ]


def _memory(plan: ModelPlan) -> Table:
    memory = plan.memory
    rows = [
        ("weights", memory.weights_gib),
        ("activation peak", memory.activation_gib),
        ("non-torch" if plan.gpus else "engine", memory.non_torch_gib),
        ("CUDA graphs", memory.cudagraph_gib),
        ("KV cache", memory.kv_cache_gib),
    ]
    total = memory.total_gib or 1.0
    shown = tuple((name, f"{value:.2f}", f"{value / total:.0%}") for name, value in rows if value)
    of = "a GPU" if plan.gpus else "free memory"
    return Table(("memory", "GiB", f"of {of} ({memory.total_gib:.2f})"), shown, frozenset({"GiB"}))


def _value(term: Term) -> str:
    return f"{term.value:,.0f} B" if term.unit == "B" else f"{term.value:.2f} {term.unit}"


def _wrapped(argv: tuple[str, ...]) -> str:
    """One flag a line, so that it can be read and pasted."""
    lines, words = [], list(argv)
    current = shlex.join(words[:2])
    for word in words[2:]:
        if word.startswith("--"):
            lines.append(current)
            current = "  " + word
        else:
            current += " " + shlex.quote(word)
    return " \\\n".join([*lines, current])
