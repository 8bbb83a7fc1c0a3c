"""The adapters that vLLM holds: put in before anybody runs on them, taken out after."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams

from service.errors import EngineUnavailable

T = TypeVar("T")


class Astray(Exception):
    """vLLM holds other adapters than it was given: whom it answers with is not known any more."""


class Shelf:
    """One change at a time, in the order in which they were asked for.

    `most` are held at once: vLLM fills its slots from the first on, so those beyond stay empty.
    `fault` is an event loop's, in which all happens; it is done once vLLM cannot be relied on.
    """

    def __init__(
        self,
        llm: Any,
        most: int,
        fault: "asyncio.Future[Exception]",
        *,
        remembers: bool | None = None,
    ) -> None:
        self._llm = llm
        self._most = most
        self._fault = fault
        self._remembers = remembers_slots() if remembers is None else remembers
        self._steps = itertools.count(1)
        self._held: dict[str, LoRARequest] = {}
        self._numbers: set[int] = set()
        self._changing = asyncio.Lock()
        self._removals: set[asyncio.Task[None]] = set()

    def of(self, name: str) -> LoRARequest:
        """Give what a request on this adapter names. Raises KeyError for one that is not held."""
        return self._held[name]

    async def add(self, name: str, number: int, folder: Path) -> None:
        """Have vLLM read an adapter and put it into a slot. Raises what vLLM does, and Astray."""
        request = LoRARequest(lora_name=name, lora_int_id=number, lora_path=str(folder))
        async with self._changing:
            if len(self._numbers) >= self._most or number in self._numbers:
                raise self._astray(f"no place, or no number, is free for {number}")
            await self._unless_dead(self._llm.add_lora(request))
            self._numbers.add(number)
            await self._compare()
            if self._remembers:
                await self._unless_dead(self._step())
            self._held[name] = request

    def remove(self, name: str, after: Callable[[], Awaitable[None]]) -> None:
        """Have it taken out once `after` has ended; nobody can name it from now on.

        What is added later is added after that.
        """
        task = asyncio.create_task(self._remove(self._held.pop(name).lora_int_id, after))
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def clear(self) -> None:
        """Take everything out."""
        for name in list(self._held):
            self.remove(name, _at_once)
        await asyncio.gather(*self._removals)

    async def _remove(self, number: int, after: Callable[[], Awaitable[None]]) -> None:
        async with self._changing:
            try:
                await after()
                await self._unless_dead(self._llm.remove_lora(number))
                self._numbers.remove(number)
                await self._compare()
            except Exception as fault:  # noqa: BLE001 - nobody waits for it, and none may be missed
                self._give_up(fault)

    async def _compare(self) -> None:
        listed = set(await self._unless_dead(self._llm.list_loras()))
        if listed != self._numbers:
            raise self._astray(f"vLLM holds {sorted(listed)}, not {sorted(self._numbers)}")

    async def _step(self) -> None:
        """Have a step made in which nobody runs on what was just put in."""
        prompt = tokens_input([0], cache_salt="shelf")
        wish = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
        async for _ in self._llm.generate(prompt, wish, f"shelf-{next(self._steps)}"):
            pass

    async def _unless_dead(self, answer: Coroutine[Any, Any, T]) -> T:
        """Wait for vLLM's answer, or for its end: then none comes."""
        asked = asyncio.create_task(answer)
        ends: set[asyncio.Future[Any]] = {asked, self._fault}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            asked.cancel()
            raise EngineUnavailable("the generation engine stopped")
        return await asked

    def _astray(self, why: str) -> Astray:
        fault = Astray(why)
        self._give_up(fault)
        return fault

    def _give_up(self, fault: Exception) -> None:
        if not self._fault.done():
            self._fault.set_result(fault)


def remembers_slots() -> bool:
    """Tell whether this vLLM looks adapters' slots up only when a step's adapters change.

    Then one that has moved to another slot since the same step before is sought in its old one,
    where another tenant's may be by now: 0.25 does so, 0.30 compares the slots too.
    """
    spec = find_spec("vllm.lora.model_manager")
    assert spec is not None
    assert spec.origin is not None
    return "_last_slot_layout" not in Path(spec.origin).read_text(encoding="utf-8")


async def _at_once() -> None:
    """Wait for nothing."""
