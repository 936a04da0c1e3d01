"""``llmops bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt

_LOAD = "Load"
_PROMPTS = "Prompts"
_GATES = "Gates"


def register(app: typer.Typer) -> None:
    """Add the command."""
    epilog = "Example: llmops bench http://127.0.0.1:8000 --requests 500 --concurrency 8 --slo 'ttft.p95<500ms'"
    app.command("bench", epilog=epilog)(bench)


def bench(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="URL | compare A.json B.json", help="With or without /v1")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model name; asked for when left out")] = None,
    api: Annotated[str, typer.Option(metavar="NAME", help="chat, completions or messages")] = "chat",
    api_key_env: Annotated[str | None, typer.Option(metavar="NAME", help="Variable that holds the key")] = None,
    requests: Annotated[int | None, typer.Option("--requests", "-r", metavar="N", help="Stop after N")] = None,
    duration: Annotated[str | None, typer.Option("--duration", "-d", metavar="TIME", help="Stop after 60s")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", "-c", metavar="N", help="Users, or cap")] = None,
    rate: Annotated[float | None, typer.Option(metavar="R", help="Requests a second, open loop")] = None,
    arrival: Annotated[str, typer.Option(metavar="P", help="constant, poisson, gamma:SHAPE")] = "poisson",
    ramp: Annotated[str | None, typer.Option(metavar="TIME", help="Grow to the load, unmeasured")] = None,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Replay a trace (JSON lines)")] = None,
    sweep: Annotated[str | None, typer.Option(metavar="1,2,4", help="Several levels of the load")] = None,
    find_max: Annotated[bool, typer.Option("--find-max", help="Search the most that holds --slo")] = False,
    input_tokens: Annotated[str, typer.Option(metavar="N|A-B", help="Prompt length")] = "128",
    output_tokens: Annotated[str, typer.Option(metavar="N|A-B", help="Answer length (max_tokens)")] = "128",
    language: Annotated[str, typer.Option(metavar="en|ja", help="Of synthetic prompts")] = "en",
    dataset: Annotated[Path | None, typer.Option(metavar="FILE", help="ShareGPT, JSONL or text prompts")] = None,
    turns: Annotated[int, typer.Option(metavar="N", help="Requests a conversation")] = 1,
    think: Annotated[str, typer.Option(metavar="TIME", help="Pause between turns")] = "0",
    prefix_groups: Annotated[int, typer.Option(metavar="N", help="Different shared prefixes")] = 0,
    prefix_tokens: Annotated[int, typer.Option(metavar="N", help="Length of a shared prefix")] = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Full-length answers (vLLM)")] = False,
    extra_body: Annotated[str | None, typer.Option(metavar="JSON", help="More request fields")] = None,
    header: Annotated[list[str] | None, typer.Option(metavar="'N: V'", help="More headers")] = None,
    warmup: Annotated[int | None, typer.Option(metavar="N", help="Requests before the clock")] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Whole answers, end-to-end time only")] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Connect anew for each request")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of prompts and arrivals")] = 0,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Of one request")] = "600s",
    slo: Annotated[list[str] | None, typer.Option(metavar="'ttft.p99<500ms'", help="Objective; repeatable")] = None,
    confidence: Annotated[float, typer.Option(metavar="P", help="Of SLO tests")] = 0.99,
    baseline: Annotated[Path | None, typer.Option(metavar="FILE", help="Earlier JSON report to hold")] = None,
    max_regression: Annotated[str, typer.Option(metavar="PCT", help="Slower than that fails")] = "5%",
    ab: Annotated[
        tuple[str, str] | None, typer.Option("--ab", metavar="URL1 URL2", help="Is URL2 slower? Run in turns")
    ] = None,
    rounds: Annotated[int | None, typer.Option(metavar="N", help="Of --ab  [default: 5]")] = None,
    gpu_hour_cost: Annotated[str | None, typer.Option(metavar="USD", help="For the cost of tokens")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Client processes")] = None,
    offline: Annotated[str | None, typer.Option(metavar="ENGINE", help="Measure transformers, onnxruntime")] = None,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Load-test an OpenAI-compatible endpoint, with gates for CI"""
    from llmops.bench import command
    from llmops.cli import output

    output.run(
        "bench",
        lambda progress: command.run(
            progress,
            targets=targets,
            reports=report,
            confidence=confidence,
            baseline=baseline,
            max_regression=max_regression,
            ab=ab,
            rounds=rounds,
            gpu_hour_cost=gpu_hour_cost,
            workers=workers,
            offline=offline,
            model=model,
            api=api,
            api_key_env=api_key_env,
            requests=requests,
            duration=duration,
            concurrency=concurrency,
            rate=rate,
            arrival=arrival,
            ramp=ramp,
            trace=trace,
            sweep=sweep,
            find_max=find_max,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            language=language,
            dataset=dataset,
            turns=turns,
            think=think,
            prefix_groups=prefix_groups,
            prefix_tokens=prefix_tokens,
            ignore_eos=ignore_eos,
            extra_body=extra_body,
            headers=header,
            warmup=warmup,
            stream=not no_stream,
            cold=cold,
            seed=seed,
            timeout=timeout,
            slo=slo,
        ),
        command.view,
        json=json,
        report=command.shared_reports(report),
        quiet=quiet,
        verbose=verbose,
    )
