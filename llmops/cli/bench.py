"""``llmops bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt
from llmops.cli.panels import PanelCommand

_SERVER = "Server"
_LOAD = "Load"
_PROMPTS = "Prompts"
_GATES = "Gates"


def register(app: typer.Typer) -> None:
    """Add the command."""
    epilog = "Example: llmops bench http://HOST:8000 -r 500 -c 8 --slo 'ttft.p95<500ms'"
    app.command("bench", epilog=epilog, cls=PanelCommand)(bench)


# Typer reads the options from this signature. A hidden one is named in the help of the option that it goes with.
def bench(
    targets: Annotated[list[str] | None, typer.Argument(metavar="URL | compare A.json B.json")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Asked for when left out", rich_help_panel=_SERVER)
    ] = None,
    api: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="chat (default), completions, messages; --no-stream",
            rich_help_panel=_SERVER,
        ),
    ] = "chat",
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable of the key", rich_help_panel=_SERVER)
    ] = None,
    header: Annotated[list[str] | None, typer.Option(metavar="'N: V'", help="More headers", hidden=True)] = None,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Of one request", rich_help_panel=_SERVER)] = "600s",
    offline: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE", help="transformers, onnxruntime or tensorrt, then MODEL", rich_help_panel=_SERVER
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", "-r", metavar="N", help="Stop after N", rich_help_panel=_LOAD)
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration",
            "-d",
            metavar="TIME",
            help="Stop after 60s; --ramp TIME grows to the load first",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", "-c", metavar="N", help="Users; with --rate, at most so many", rich_help_panel=_LOAD
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="R", help="Requests a second, open loop", rich_help_panel=_LOAD)
    ] = None,
    arrival: Annotated[
        str, typer.Option(metavar="P", help="constant, poisson or gamma:0.5", rich_help_panel=_LOAD)
    ] = "poisson",
    ramp: Annotated[str | None, typer.Option(metavar="TIME", help="Grow to the load, unmeasured", hidden=True)] = None,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Replay JSON lines", rich_help_panel=_LOAD)] = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="1,2,4", help="Several levels, one after the other", rich_help_panel=_LOAD)
    ] = None,
    find_max: Annotated[
        bool, typer.Option("--find-max", help="Search the most that holds --slo", rich_help_panel=_LOAD)
    ] = False,
    warmup: Annotated[
        int | None, typer.Option(metavar="N", help="Requests before the clock", rich_help_panel=_LOAD)
    ] = None,
    cold: Annotated[bool, typer.Option("--cold", help="Connect anew for each request", rich_help_panel=_LOAD)] = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Client processes  [default: by load]", rich_help_panel=_LOAD)
    ] = None,
    input_tokens: Annotated[
        str, typer.Option(metavar="N|A-B", help="Prompt length; --language en or ja", rich_help_panel=_PROMPTS)
    ] = "128",
    output_tokens: Annotated[
        str, typer.Option(metavar="N|A-B", help="Answer length (max_tokens)", rich_help_panel=_PROMPTS)
    ] = "128",
    language: Annotated[str, typer.Option(metavar="en|ja", help="Of synthetic prompts", hidden=True)] = "en",
    dataset: Annotated[
        Path | None, typer.Option(metavar="FILE", help="ShareGPT, JSONL or text", rich_help_panel=_PROMPTS)
    ] = None,
    turns: Annotated[
        int, typer.Option(metavar="N", help="A conversation; --think TIME between", rich_help_panel=_PROMPTS)
    ] = 1,
    think: Annotated[str, typer.Option(metavar="TIME", help="Pause between turns", hidden=True)] = "0",
    prefix_groups: Annotated[
        int, typer.Option(metavar="N", help="Shared, of --prefix-tokens N each", rich_help_panel=_PROMPTS)
    ] = 0,
    prefix_tokens: Annotated[int, typer.Option(metavar="N", help="Length of a shared prefix", hidden=True)] = 0,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Full-length answers (vLLM)", rich_help_panel=_PROMPTS)
    ] = False,
    extra_body: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="More request fields; --header 'N: V' for headers", rich_help_panel=_PROMPTS),
    ] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Whole answers, end-to-end only", hidden=True)] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of prompts and arrivals", rich_help_panel=_PROMPTS)] = 0,
    slo: Annotated[
        list[str] | None,
        typer.Option(metavar="'ttft.p99<500ms'", help="Repeatable; judged at --confidence P", rich_help_panel=_GATES),
    ] = None,
    confidence: Annotated[float, typer.Option(metavar="P", help="Of SLO tests", hidden=True)] = 0.99,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Earlier JSON report; --max-regression 5% fails", rich_help_panel=_GATES),
    ] = None,
    max_regression: Annotated[str, typer.Option(metavar="PCT", help="Slower than that fails", hidden=True)] = "5%",
    ab: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--ab", metavar="URL1 URL2", help="Is URL2 slower? In turns, --rounds N (5)", rich_help_panel=_GATES
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(metavar="N", help="Of --ab  [default: 5]", hidden=True)] = None,
    allow_invalid: Annotated[
        bool, typer.Option("--allow-invalid", help="An INVALID run exits 0, not 6", rich_help_panel=_GATES)
    ] = False,
    gpu_hour_cost: Annotated[str | None, typer.Option(metavar="USD", help="For the cost of tokens")] = None,
    json: opt.Json = False,
    report: Annotated[
        list[Path] | None,
        typer.Option("--report", metavar="FILE", help="Repeatable: .json .xml .csv .md .html .gab.json"),
    ] = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Load-test an OpenAI-compatible endpoint, with gates for CI"""
    from llmops.bench import command

    answer = opt.Answer("bench", json, tuple(command.shared_reports(report)), quiet, verbose)
    answer.run(
        lambda progress: command.run(
            progress,
            targets=targets,
            reports=report,
            confidence=confidence,
            allow_invalid=allow_invalid,
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
        brief=command.brief,
    )
