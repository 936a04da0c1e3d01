"""A serve report for people."""

from __future__ import annotations

import shlex

from llmops.report.document import Block, Code, Document, Facts, Heading, Table, Text
from llmops.report.told import told
from llmops.serve.detached import LogReport, ServersReport, shown_uptime
from llmops.serve.fleet import FleetReport
from llmops.serve.readback import Term
from llmops.serve.serve import ServeReport
from llmops.units import format_duration, format_size


def view(report: ServeReport) -> Document:
    """What was decided, why, and how it went."""
    decision, plan = report.decision, report.decision.plan
    facts = [
        (
            "model",
            f"{decision.launch.model_name} ({decision.facts.architecture}, {format_size(decision.facts.size_bytes)})",
        ),
        ("engine", f"{decision.engine}: {decision.choice.reason}"),
        ("address", decision.launch.url + "/v1"),
        ("context", f"{plan.max_model_len} tokens, up to {plan.max_num_seqs} requests at once"),
    ]
    if plan.threads is not None:
        facts.append(("threads", str(plan.threads)))
    if report.log is not None:
        facts.append(("log", str(report.log)))
    if report.ready_s is not None and report.served_s is not None:
        facts.append(("ready after", format_duration(report.ready_s)))
        facts.append(("served for", format_duration(report.served_s)))
    if report.restarts:
        facts.append(("restarts", str(report.restarts)))
    blocks: list[Block] = [Facts(tuple(facts))]
    if report.terms:
        rows = tuple(
            (term.name, _number(term.planned), _number(term.reported), _percent(term)) for term in report.terms
        )
        blocks.append(Table(("memory", "planned", "reported", "off"), rows, frozenset({"planned", "reported", "off"})))
    blocks += told(report.findings)
    if report.log is None:
        blocks += _dry_run(report)
        return Document(f"serve {decision.launch.model_name}", tuple(blocks), Text("nothing was started", "dim"))
    return Document(
        f"serve {decision.launch.model_name}", tuple(blocks), Text("stopped; nothing is left running", "good")
    )


def _dry_run(report: ServeReport) -> list[Block]:
    launch = report.decision.launch
    env = " ".join(f"{name}={shlex.quote(value)}" for name, value in launch.env.items() if value is not None)
    blocks: list[Block] = [Text(f"- {reason}") for reason in report.decision.plan.reasons[1:]]
    blocks += [Heading("would run"), Code(f"{env} \\\n{shlex.join(launch.argv)}", "sh")]
    return blocks


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _percent(term: Term) -> str:
    return "-" if term.off_percent is None else f"{term.off_percent:+.1f} %"


def view_servers(report: ServersReport) -> Document:
    """A table of detached servers."""
    if not report.servers:
        return Document("servers", (Text("none is running; start one with: llmops serve MODEL --detach", "dim"),))
    rows = tuple(
        (row.name, row.state, row.url, row.engine, str(row.pid or "-"), shown_uptime(row)) for row in report.servers
    )
    return Document("servers", (Table(("name", "state", "url", "engine", "pid", "up"), rows),))


def view_started(report: ServersReport) -> Document:
    """The server that was just started."""
    row = report.servers[0]
    facts = (
        ("model", row.model),
        ("address", row.url + ("" if row.engine == "triton" else "/v1")),
        ("engine", row.engine),
        ("log", row.log),
    )
    after = f"llmops status {row.name}   llmops logs {row.name}   llmops stop {row.name}"
    return Document(f"serve {row.name}", (Facts(facts), Text(after, "dim")), Text("it answers, detached", "good"))


def view_stopped(report: ServersReport) -> Document:
    """What was stopped."""
    names = ", ".join(row.name for row in report.servers)
    verdict = Text(f"stopped: {names}" if names else "nothing was running", "good")
    return Document("stop", (), verdict)


def view_log(report: LogReport) -> Document:
    """The end of a log."""
    return Document(f"log of {report.name}", (Facts((("file", report.log),)), Code("\n".join(report.lines))))


def view_fleet(report: FleetReport) -> Document:
    """Several models: where and on what each runs."""
    rows = tuple(
        (
            one.launch.model_name,
            one.engine,
            one.launch.url + "/v1",
            str(one.plan.max_model_len),
            str(one.plan.threads or "-"),
        )
        for one in report.decisions
    )
    blocks: list[Block] = [Table(("model", "engine", "address", "context", "threads"), rows)]
    if not report.stopped_by:
        blocks += [Code(shlex.join(one.launch.argv), "sh") for one in report.decisions]
        return Document("serve", tuple(blocks), Text("nothing was started", "dim"))
    return Document("serve", tuple(blocks), Text("stopped; nothing is left running", "good"))
