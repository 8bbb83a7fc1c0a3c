"""vLLM's own OpenAI front end on an engine that needs no model: the peer of `api_only`.

`python -m bench.vllm_front PORT MODEL NAME STEP`, where vLLM is installed. Its app, its serving
classes, its renderer and its collectors of outputs are vLLM's; only what `AsyncLLM.generate` asks
of the engine's process is done here, as `steady` does it. Its access log is off, like its own log
of requests, where ours writes two lines for each.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.entry import build_and_serve
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.launchers.launcher import setup_server
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers import renderer_from_config
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import RequestOutputCollector


class SteadyLLM(AsyncLLM):
    """An `AsyncLLM` whose engine gives every request a token each `step` seconds."""

    def __init__(self, config: Any, step: float) -> None:
        self.vllm_config, self.model_config = config, config.model_config
        self.observability_config = config.observability_config
        self.renderer = renderer_from_config(config)
        self.input_processor = InputProcessor(config, self.renderer)
        self._step_seconds = step
        self._running: dict[RequestOutputCollector, tuple[list[int], int, int]] = {}

    errored = False

    async def check_health(self) -> None:
        """It is well."""

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def check_admission(self, *_: Any, **__: Any) -> None:
        """Everybody is admitted."""

    async def run(self) -> None:
        """Make tokens for ever; after a step that came late the next one follows at once."""
        due = time.monotonic()
        while True:
            due += self._step_seconds
            await asyncio.sleep(max(0, due - time.monotonic()))
            self._step()

    def _step(self) -> None:
        text = f"t{time.monotonic_ns() // 1000} "
        for queue, (prompt, before, most) in list(self._running.items()):
            made = before + 1
            reason = "length" if made == most else None
            piece = CompletionOutput(0, text, [5], None, None, finish_reason=reason)
            queue.put(
                RequestOutput(queue.request_id, None, prompt, None, [piece], reason is not None)
            )
            self._running[queue] = (prompt, made, most)
            if reason is not None:
                del self._running[queue]

    async def generate(  # type: ignore[override]
        self, prompt: Any, sampling_params: Any, request_id: str, **_: Any
    ) -> AsyncIterator[RequestOutput]:
        """Hand on what comes, as `AsyncLLM` does."""
        queue = RequestOutputCollector(sampling_params.output_kind, request_id)
        self._running[queue] = (prompt["prompt_token_ids"], 0, sampling_params.max_tokens)
        try:
            finished = False
            while not finished:
                output = queue.get_nowait() or await queue.get()
                assert isinstance(output, RequestOutput)
                finished = output.finished
                yield output
        finally:
            self._running.pop(queue, None)

    def shutdown(self, timeout: float | None = None) -> None:
        """There is no other process."""


async def main(port: str, model: str, name: str, step: str) -> None:
    """Serve until killed."""
    parser = make_arg_parser(FlexibleArgumentParser())
    options = f"--model {model} --served-model-name {name} --host 127.0.0.1 --port {port}"
    args = parser.parse_args(f"{options} --disable-uvicorn-access-log --dtype float32".split())
    engine = SteadyLLM(AsyncEngineArgs.from_cli_args(args).create_engine_config(), float(step))
    address, sock = setup_server(args, reuse_port=False)
    making = asyncio.create_task(engine.run())
    await (await build_and_serve(engine, address, sock, args))
    making.cancel()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
