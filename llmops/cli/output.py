"""The only writer to stdout, and the one place where an exception becomes a message and an exit code.

While work runs, file descriptor 1 points at stderr, so a library that prints (from Python, C or a child process) cannot
break the result on stdout.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from llmops.cli.options import Answer
from llmops.errors import ExitCode, LlmopsError, UsageError
from llmops.findings import Report
from llmops.masking import mask, visible

if TYPE_CHECKING:
    from llmops.progress import Progress
    from llmops.report.document import Document

R = TypeVar("R", bound=Report)
REPORT_SUFFIXES = (".json", ".xml", ".sarif", ".md", ".html")


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived. Unwinds like Ctrl-C, exits with 128 + signal."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


def run(
    answer: Answer,
    work: Callable[[Progress], R],
    view: Callable[[R], Document],
    *,
    brief: Callable[[R], Document] | None = None,
    printed: Callable[[R], str] | None = None,
) -> NoReturn:
    """Do the work, emit its report, exit with its code.

    Args:
        answer: The shared options of the command, as given.
        work: Called with a progress sink; returns the report.
        view: Pure function from the report to a document for people.
        brief: The same for the terminal, where the whole document is too long for one.
        printed: What stdout gets instead of the terminal's table, where another text form was asked for.
    """
    _configure_logging(answer)
    _raise_on_signals()
    raise SystemExit(int(_guarded(answer, work, _Forms(view, brief or view, printed))))


@dataclass(frozen=True, slots=True)
class _Forms(Generic[R]):
    """How a report is shown: for people in files, for people here, or as some other text here."""

    view: Callable[[R], Document]
    brief: Callable[[R], Document]
    printed: Callable[[R], str] | None


def _guarded(answer: Answer, work: Callable[[Progress], R], forms: _Forms[R]) -> ExitCode | int:
    try:
        _refuse_unknown_report_suffix(answer.reports)
        with stdout_is_stderr() as stdout_fd:
            result = _with_progress(answer, work)
        with os.fdopen(os.dup(stdout_fd), "w", encoding="utf-8") as stdout:
            _emit(answer, result, forms, stdout)
        os.close(stdout_fd)
    except LlmopsError as error:
        return fail(answer, error)
    except BrokenPipeError:
        # The reader of stdout went away (`llmops … | head`): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as stop:
        code = 128 + stop.signum if isinstance(stop, Terminated) else int(ExitCode.INTERRUPTED)
        return fail(answer, LlmopsError("interrupted", None), code)
    except OSError as error:
        return fail(answer, _from_os_error(error))
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug must still be one line and exit 70
        return fail(answer, _bug(error))
    return exit_code_of(result)


def exit_code_of(report: Report) -> ExitCode | int:
    """The report's own ``exit_code`` where it has one, else 0 or 1 by ``ok``."""
    own = getattr(report, "exit_code", None)
    if own is not None:
        return ExitCode(own)
    return ExitCode.OK if report.ok else ExitCode.NO


@contextlib.contextmanager
def stdout_is_stderr() -> Iterator[int]:
    """Point file descriptor 1 at stderr for a while; yields a descriptor of the real stdout, which the caller closes."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield real
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)


def _with_progress(answer: Answer, work: Callable[[Progress], R]) -> R:
    if answer.quiet:
        from llmops.progress import Silent

        return work(Silent())
    from llmops.cli.live import progress

    with progress(sys.stderr) as sink:
        return work(sink)


def _emit(answer: Answer, report: R, forms: _Forms[R], stdout: Any) -> None:
    from llmops.report import files, github

    document = forms.view(report)
    if answer.json:
        stdout.write(mask(files.envelope(answer.verb, report)) + "\n")
    elif forms.printed is not None:
        stdout.write(mask(forms.printed(report)).rstrip("\n") + "\n")
    else:
        from llmops.report.terminal import render

        stdout.write(mask(render(forms.brief(report), color=_color(stdout), width=_width(stdout))))
    stdout.flush()
    for path in answer.reports:
        files.write(path, answer.verb, report, document)
    if github.active():
        github.annotate(report.findings, sys.stderr)
        github.summarise(document)


def fail(answer: Answer, error: LlmopsError, code: int | None = None) -> int:
    """Print an error line, its hint, and the JSON document where asked. Returns the exit code."""
    code = int(error.exit_code) if code is None else code
    red, reset = ("\033[31m", "\033[0m") if _color(sys.stderr) else ("", "")
    lines = [f"{red}error:{reset} {visible(_one_line(error.message))}"]
    if error.hint:
        lines.append(f"hint: {visible(error.hint)}")
    sys.stderr.write(mask("\n".join(lines)) + "\n")
    if answer.verbose >= 2 or os.environ.get("LLMOPS_DEBUG") == "1":
        sys.stderr.write(mask("".join(traceback.format_exception(error.__cause__ or error))))
    if answer.json:
        from llmops.report import files

        sys.stdout.write(mask(files.failure_envelope(answer.verb, error, code)) + "\n")
        sys.stdout.flush()
    from llmops.report import github

    if github.active():
        github.error(error.message, error.hint, sys.stderr)
    return code


def _from_os_error(error: OSError) -> LlmopsError:
    """An operating-system error that no part explained better."""
    import errno

    where = f": {error.filename}" if error.filename else ""
    what = (error.strerror or str(error)) + where
    hints = {
        errno.ENOSPC: "free some space or choose another output directory",
        errno.EDQUOT: "your disk quota is used up; choose another output directory",
        errno.EACCES: "check the permissions of that path",
        errno.EROFS: "that file system is read-only; choose another output directory",
        errno.EMFILE: "raise the limit with: ulimit -n 65536",
    }
    wrapped: LlmopsError
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        wrapped = UsageError(what, "check the path")
    elif error.errno in hints:
        wrapped = LlmopsError(what, hints[error.errno], exit_code=ExitCode.MACHINE)
    else:
        return _bug(error)
    wrapped.__cause__ = error
    return wrapped


def _bug(error: Exception) -> LlmopsError:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    bug = LlmopsError(
        f"a bug in llmops: {type(error).__name__}: {error}{place}",
        "please report it with the output of the same command and -vv",
    )
    bug.__cause__ = error
    return bug


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _refuse_unknown_report_suffix(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if path.suffix not in REPORT_SUFFIXES:
            raise UsageError(
                f"--report {path}: unknown format {path.suffix!r}", f"end it in {' '.join(REPORT_SUFFIXES)}"
            )
        if not path.absolute().parent.is_dir():
            raise UsageError(f"--report {path}: there is no directory {path.parent}", f"mkdir -p {path.parent}")


def _configure_logging(answer: Answer) -> None:
    level = logging.ERROR if answer.quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(answer.verbose, 2)]

    class Masking(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return mask(super().format(record))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Masking("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _raise_on_signals() -> None:
    def raise_terminated(signum: int, _frame: FrameType | None) -> None:
        # A second signal while the first unwinds must not break the clean-up.
        for each in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(signum)

    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, raise_terminated)


def _color(stream: Any) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(stream.isatty())


def _width(stream: Any) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 100
