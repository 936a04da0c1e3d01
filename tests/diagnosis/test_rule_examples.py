"""Every rule proves itself on the examples in its own file."""

from __future__ import annotations

import re
import string

import pytest

from llmops.diagnosis import diagnose_text
from llmops.diagnosis.compute import COMPUTE
from llmops.diagnosis.fixes import _FIELD
from llmops.diagnosis.rules import Rule, build, rule_book

RULES = {rule.cause: rule for rule in rule_book().rules}


@pytest.mark.parametrize("cause", RULES)
def test_positive_examples_get_this_cause(cause):
    for text in RULES[cause].examples.positive:
        diagnosis = diagnose_text("example", text)
        assert diagnosis.top is not None, text
        assert diagnosis.top.cause == cause, (text, [(c.cause, c.confidence) for c in diagnosis.causes])
        assert diagnosis.top.evidence[0].text in text


@pytest.mark.parametrize("cause", RULES)
def test_negative_examples_do_not(cause):
    for text in RULES[cause].examples.negative:
        assert cause not in [c.cause for c in diagnose_text("example", text).causes], text


def test_a_rule_without_both_kinds_of_examples_is_refused():
    record = RULES["port-in-use"].model_dump(mode="json")
    for kind in ("positive", "negative"):
        broken = record | {"examples": record["examples"] | {kind: []}}
        with pytest.raises(ValueError, match="port-in-use"):
            build({"rules": [broken], "symptoms": [], "phases": [], "groups": []})


def test_explained_causes_exist_and_no_pair_explains_each_other_alone():
    for rule in RULES.values():
        for other in rule.explains:
            assert other in RULES or other == "crash-loop", (rule.cause, other)


def test_each_fix_is_whole_and_its_computation_exists():
    for rule in RULES.values():
        assert any(
            f.compute is None and not _FIELD.findall(f"{f.title} {f.command}") for f in rule.fixes
        ) or rule.cause in (
            "tp-heads-indivisible",
            "kv-space-exceeds-memory",
            "quantize-group-indivisible",
            "lora-adapter-missing",
        ), rule.cause
        for fix in rule.fixes:
            assert fix.compute is None or fix.compute in COMPUTE
            assert fix.title[0] in string.ascii_uppercase


def test_slugs_are_unique_and_in_kebab_case():
    assert len(RULES) == len(rule_book().rules) >= 77 + 1
    for cause in RULES:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cause)


def test_rules_are_plain_records():
    assert all(isinstance(rule, Rule) for rule in RULES.values())
