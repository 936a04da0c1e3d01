"""Runs as a child process: downloads a model's safe files from a hub.

Started as ``python -P hub_child.py JOB``; JOB is a JSON object with ``repo``, ``revision``, ``local_dir``, ``timeout_s``.
Prints one JSON object a line: ``{"reached": {"licence", "total_bytes"}}`` as soon as the hub has answered, at the end
``{"done": path}``, or ``{"refused": why}``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# No pickles and no code: weights as safetensors, the rest as JSON and text.
SAFE = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*",
        "README.md", "USE_POLICY*"]  # fmt: skip
NOT_WANTED = ["*/*", "consolidated*", "openvino*", "onnx*"]


def main() -> int:
    """Download, and say how it went on the original stdout; libraries print to stderr."""
    job = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    from huggingface_hub import errors

    try:
        say(done=download(job, say))
    except errors.GatedRepoError:
        say(refused="the hub wants its terms accepted and a token (HF_TOKEN) of that account")
    except errors.RepositoryNotFoundError:
        say(refused="the hub has no such model, or it is private")
    except errors.LocalEntryNotFoundError:
        say(refused="HF_HUB_OFFLINE is set and the model is not in the local cache")
    except Exception as error:  # noqa: BLE001 - any failure of the network is a reason to try the next source
        say(refused=f"{type(error).__name__}: {error}".splitlines()[0][:300])
        return 1
    return 0


def download(job: dict[str, Any], say: Any) -> str:
    """Ask for the model's card, then fetch its files; from the local cache alone when offline."""
    from huggingface_hub import HfApi, constants, snapshot_download

    repo, revision = job["repo"], job["revision"]
    if constants.HF_HUB_OFFLINE:
        return str(snapshot_download(repo, revision=revision, local_files_only=True))
    info = HfApi().model_info(repo, revision=revision, timeout=job["timeout_s"], files_metadata=True)
    sizes = [file.size or 0 for file in info.siblings or [] if "/" not in file.rfilename and _safe(file.rfilename)]
    licence = info.card_data.get("license") if info.card_data else None
    say(reached={"licence": str(licence) if licence else None, "total_bytes": sum(sizes)})
    return str(
        snapshot_download(
            repo, revision=info.sha, local_dir=job["local_dir"], allow_patterns=SAFE, ignore_patterns=NOT_WANTED,
            etag_timeout=job["timeout_s"],
        )
    )  # fmt: skip


def _safe(name: str) -> bool:
    from fnmatch import fnmatch

    return any(fnmatch(name, pattern) for pattern in SAFE) and not any(fnmatch(name, p) for p in NOT_WANTED)


if __name__ == "__main__":
    raise SystemExit(main())
