"""From a log to the root cause of a failure: offline, deterministic, with the lines that prove it."""

from llmops.diagnosis.api import diagnose_files, diagnose_text, explain_log
from llmops.diagnosis.remedies import remedies
from llmops.diagnosis.report import Cause, Diagnosis, Evidence, Fix

__all__ = ["Cause", "Diagnosis", "Evidence", "Fix", "diagnose_files", "diagnose_text", "explain_log", "remedies"]
