"""Load a model through transformers, and refuse weights that do not fit its configuration.

Where weights are packed while they are loaded, transformers does not compare their shapes with the configuration: it
saves a checkpoint that cannot be used and reports success.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .job import RefusedError


def load_model(path: str, job: dict[str, Any], **more: Any) -> Any:
    """The model on the job's device, in the job's type. ``more`` goes to ``from_pretrained``.

    Raises:
        RefusedError: Tensors are missing, or have another shape than the configuration says.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, job["dtype"]),
        device_map={"": job["device"]},
        output_loading_info=True,
        **more,
    )
    missing = sorted(map(str, info.get("missing_keys", ())))
    if missing:
        raise misfit(missing, "is not in the checkpoint")
    return model


def check_shapes(path: str) -> None:
    """Compare the shapes in the weight files' headers with those that the configuration gives.

    Raises:
        RefusedError: They differ.
    """
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    wrong: list[str] = []
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            stored = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        wrong += [name for name, shape in stored.items() if wanted.get(name, shape) != shape]
    if wrong:
        raise misfit(sorted(wrong), "has another shape than config.json says")


def misfit(names: list[str], what: str) -> RefusedError:
    """The refusal that names the first of the tensors."""
    others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return RefusedError(
        "weights-do-not-fit",
        f"{names[0]} {what}{others}",
        "config.json and the weights are of different models: fetch both again",
    )
