"""Serves with Triton as the command line does: TritonSpec's fields as JSON, then the ready file."""

import json
import sys
from pathlib import Path

from llmops.cli import output
from llmops.serve import triton

spec = triton.TritonSpec(**json.loads(sys.argv[1]))
output.run("serve", lambda progress: triton.serve(spec, progress, ready_file=Path(sys.argv[2])), triton.view, json=True)
