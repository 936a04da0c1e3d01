"""Run by vLLM's own interpreter: reads command lines as JSON, says which of them vLLM's own parser and checks refuse."""

import contextlib
import io
import json
import sys

from vllm.config import SchedulerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser


def refusal(parser, command, argv):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = parser.parse_args(argv)
        command.validate(args)
        engine = AsyncEngineArgs.from_cli_args(args)
        SchedulerConfig(
            max_model_len=engine.max_model_len,
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            is_encoder_decoder=False,
        )
    except SystemExit:
        return said.getvalue()[-300:]
    except Exception as error:
        return str(error)[:300]
    return None


def main():
    parser = FlexibleArgumentParser()
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers())
    refused = {}
    for argv in json.load(sys.stdin):
        why = refusal(parser, command, argv)
        if why is not None:
            refused[" ".join(argv)] = why
    print("REFUSED", json.dumps(refused))


if __name__ == "__main__":
    main()
