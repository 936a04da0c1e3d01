"""Quantise a checkpoint with a chosen engine, prove that it is still good, and say how to serve it.

Public: ``QuantizeSpec``, ``plan_quantize`` (pure), ``dry_run``, ``quantize``; ``EvaluateSpec``, ``evaluate``; ``GateSpec``
for both; and their views.
"""

from llmops.quantize.evaluation import evaluate
from llmops.quantize.plan import QuantizePlan, plan_quantize
from llmops.quantize.report import EvaluateReport, QuantizeReport
from llmops.quantize.run import dry_run, plan_or_quantize, quantize
from llmops.quantize.spec import EvaluateSpec, GateSpec, QuantizeSpec
from llmops.quantize.view import evaluate_view, plan_view, view

__all__ = [
    "EvaluateReport",
    "EvaluateSpec",
    "GateSpec",
    "QuantizePlan",
    "QuantizeReport",
    "QuantizeSpec",
    "dry_run",
    "evaluate",
    "evaluate_view",
    "plan_or_quantize",
    "plan_quantize",
    "plan_view",
    "quantize",
    "view",
]
