"""Which quantised model runs on which card under which vLLM, as its source checks it."""

from dataclasses import replace
from itertools import pairwise

import pytest
from paper_models import facts

from llmops.checkpoint.facts import Quantization
from llmops.errors import MachineError
from llmops.hardware.paper import host_from_gpus
from llmops.planning.coefficients import FLOORS, capability_floor
from llmops.planning.plan import plan
from llmops.planning.types import PlanSpec


def planned(stored: Quantization, card: str, version: str):
    model = replace(facts("llama-3.1-8b-instruct"), quantization=stored)
    return plan(PlanSpec(engine_version=version, max_model_len=512), [model], host_from_gpus(card)).models[0]


GPTQ = Quantization("gptq", "gptq", 4, 128, symmetric=True)
AWQ = Quantization("awq", "awq", 4, 128)
FP8 = Quantization("fp8", "compressed-tensors", 8)
W8A16 = Quantization("w8a16", "compressed-tensors", 8, 128)


@pytest.mark.parametrize(
    ("stored", "card", "version", "needs"),
    [
        (GPTQ, "V100-32GB", "0.21.0", None),  # ExLlama
        (GPTQ, "V100-32GB", "0.22.1", "7.5"),  # Marlin alone
        (GPTQ, "T4", "0.22.1", None),
        (replace(GPTQ, quant_method="gptq_marlin"), "V100-32GB", "0.32.0", "7.5"),
        (AWQ, "V100-32GB", "0.19.0", "7.5"),
        (AWQ, "T4", "0.8.5", None),
        (FP8, "T4", "0.13.0", "8.0"),
        (FP8, "T4", "0.16.0", None),
        (FP8, "V100-32GB", "0.32.0", "7.5"),
        (W8A16, "T4", "0.10.2", "8.0"),
        (W8A16, "T4", "0.12.0", None),
        (Quantization("w8a8", "compressed-tensors", 8), "V100-32GB", "0.19.0", "7.5"),
        (Quantization("nvfp4", "modelopt", 4, 16), "T4", "0.14.0", "8.0"),
        (Quantization("nvfp4", "modelopt", 4, 16), "T4", "0.18.0", None),
        (Quantization("mxfp4", "mxfp4", 4, 32), "T4", "0.32.0", "8.0"),
        (Quantization("nf4", "bitsandbytes", 4, 64), "V100-32GB", "0.27.1", None),
    ],
)
def test_cards_by_method_and_version(stored, card, version, needs):
    if needs is None:
        assert planned(stored, card, version).quantization == stored.method
        return
    with pytest.raises(MachineError, match=rf"{stored.method} needs compute capability {needs}") as refused:
        planned(stored, card, version)
    assert card.split("-")[0] in refused.value.message


@pytest.mark.parametrize(
    ("stored", "words"), [(replace(GPTQ, bits=3), "3 bit"), (replace(GPTQ, symmetric=False), "4 bit, asymmetric")]
)
def test_gptq_that_only_older_versions_read(stored, words):
    assert planned(stored, "L40S", "0.21.0").quantization == "gptq"
    with pytest.raises(MachineError, match=f"this is {words}"):
        planned(stored, "L40S", "0.22.0")


@pytest.mark.parametrize(("version", "fits"), [("0.13.0", False), ("0.19.0", True)])
def test_fp8_while_loading_needs_room_for_the_plain_weights_in_older_versions(version, fits):
    spec = PlanSpec(engine_version=version, quantization="fp8", max_model_len=2048)
    one = plan(spec, [facts("llama-3.3-70b-instruct")], host_from_gpus("H200")).models[0]
    assert one.fits
    one = plan(spec, [facts("llama-3.3-70b-instruct")], host_from_gpus("H100")).models[0]
    assert one.fits is fits
    assert fits or one.shortfall_gib == pytest.approx(131.45 - 78.7, abs=0.5)
    plain = plan(PlanSpec(engine_version=version), [facts("llama-3.3-70b-instruct")], host_from_gpus("H100")).models[0]
    assert any(remedy.startswith("--quantization fp8") for remedy in plain.remedies) is fits


def test_bitsandbytes_is_a_plugin_of_newer_versions():
    stored = Quantization("nf4", "bitsandbytes", 4, 64)
    assert not any("vllm-bnb-plugin" in reason for reason in planned(stored, "L40S", "0.27.1").reasons)
    assert any("vllm-bnb-plugin" in reason for reason in planned(stored, "L40S", "0.28.0").reasons)


def test_a_floor_never_rises_but_for_gptq():
    for method in {row.method for row in FLOORS}:
        rows = sorted((row for row in FLOORS if row.method == method), key=lambda row: row.since)
        assert rows[0].since == (0, 0, 0)
        assert method == "gptq" or all(a.capability >= b.capability for a, b in pairwise(rows))
    assert capability_floor("torchao", None) is None
