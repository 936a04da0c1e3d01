"""JUnit XML: one test case a finding, and one for the command itself, as GitLab, Jenkins and GitHub readers expect."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from llmops.errors import ExitCode
from llmops.findings import Finding, Report

_INVALID = {code: None for code in range(32) if code not in (9, 10, 13)}


def render(verb: str, report: Report) -> str:
    """The report as one JUnit test suite named ``llmops.VERB``."""
    cases = [_case(verb, finding) for finding in report.findings]
    failures = sum(finding.severity == "error" for finding in report.findings)
    if not report.ok and not failures:
        failures = 1
        undecided = getattr(report, "exit_code", None) == ExitCode.INCONCLUSIVE
        answer = "inconclusive: see the warnings" if undecided else "the answer is no"
        cases.append(_testcase(verb, verb, f"<failure message='{answer}'/>"))
    elif not cases:
        cases.append(_testcase(verb, verb, ""))
    suite = f'<testsuite name="llmops.{verb}" tests="{len(cases)}" failures="{failures}" errors="0" skipped="0">'
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n'
        + suite
        + "\n"
        + "\n".join(cases)
        + "\n</testsuite>\n</testsuites>"
    )


def _case(verb: str, finding: Finding) -> str:
    body = ""
    detail = finding.message + (f"\n{finding.remedy}" if finding.remedy else "")
    if finding.severity == "error":
        body = (
            f"<failure message={_attribute(finding.message)} type={_attribute(finding.rule)}>{_text(detail)}</failure>"
        )
    elif finding.severity != "ok":
        body = f"<system-out>{_text(f'{finding.severity}: {detail}')}</system-out>"
    return _testcase(verb, finding.rule, body, finding)


def _testcase(verb: str, name: str, body: str, finding: Finding | None = None) -> str:
    place = f" file={_attribute(finding.file)}" if finding and finding.file else ""
    place += f' line="{finding.line}"' if finding and finding.line else ""
    return f'<testcase classname="llmops.{verb}" name={_attribute(name)}{place}>{body}</testcase>'


def _attribute(text: str) -> str:
    return quoteattr(text.translate(_INVALID))


def _text(text: str) -> str:
    return escape(text.translate(_INVALID))
