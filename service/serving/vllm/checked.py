"""Asks vLLM, before anybody is answered, whether it mixes adapters up."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapters_store import FilesystemAdapterStore, RevisionRef
from service.rendering.renderer import Renderer
from service.serving.check_adapters import publish_random
from service.serving.self_check import self_check
from service.serving.vllm.engine import VllmEngine
from service.serving.vllm.loading import Allot
from service.serving.vllm.options import Options

ROOM = 64
"""Of the check's requests most may wait: it asks in mixtures of 15."""
PROMPT = "What is the secret of the house?"


async def checked(llm: Any, renderer: Renderer, options: Options, dtype: str) -> None:
    """Check what vLLM does with as many adapters as it is to hold, and one more.

    Leaves it as it was, without any. Raises MixedUp, and EngineUnavailable where it fails.
    """
    with TemporaryDirectory(prefix="lorehouse-check-") as folder:
        store = FilesystemAdapterStore(Path(folder))
        count = options.max_resident + 1
        refs = await asyncio.to_thread(publish_random, store, renderer.base, count)
        engine = VllmEngine(
            llm, store, renderer, _counted(refs), options, dtype=dtype, max_queue=ROOM
        )
        try:
            prompt = renderer.tokenizer.encode(PROMPT, add_special_tokens=False).ids
            await self_check(engine, refs, prompt)
        finally:
            await engine.close()


def _counted(refs: list[RevisionRef]) -> Allot:
    """Number what is nobody's revision: all are out again before any of theirs comes."""

    async def allot(ref: RevisionRef) -> int:
        return 1 + refs.index(ref)

    return allot
