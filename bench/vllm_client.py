"""vLLM's load generator as a process that loads again and again: importing vllm takes its time.

Each line it reads is a JSON array, an API key and `vllm bench serve`'s arguments; each line it
writes, when that has ended, is empty. It ends with its input, and where a load fails.
"""

import json
import os
import sys


def serve() -> None:
    """Load as often as asked."""
    # What vLLM prints, from its import on, is for the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    for line in sys.stdin:
        key, arguments = json.loads(line)
        os.environ["OPENAI_API_KEY"] = key
        main(parser.parse_args(arguments))
        print(file=answers, flush=True)


if __name__ == "__main__":
    serve()
