"""Revisions to train on from: what they are, and that their files are there and of this base."""

import asyncio

import msgspec

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    Revision,
    RevisionNotFound,
    RevisionRef,
    StoreUnavailable,
)
from service.adapters.service import ModelService, model_not_found
from service.base.description import BaseDescription
from service.errors import AdaptersUnavailable, BadRequest, Conflict, NotFound
from service.training.spec import BaseAdapter, LoraSpec

FIELD = "method.supervised.base_adapter"


class Parent(msgspec.Struct, frozen=True):
    """A revision by its exact name, and the shape that whoever goes on from it must have."""

    model: str
    base_adapter: BaseAdapter
    lora: LoraSpec
    param: str
    """The field that named it."""


class _Config(msgspec.Struct, frozen=True):
    r: int
    lora_alpha: float
    target_modules: list[str]
    lora_dropout: float = 0.0
    use_rslora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}


async def find_parent(models: ModelService, tenant_id: str, model: str, param: str) -> Parent:
    """Find what a model's name stands for now. Raises NotFound, BadRequest and Conflict."""
    try:
        target = await models.resolve(tenant_id, model)
    except (NotFound, Conflict) as fault:
        fault.param = param
        raise
    if target.revision is None:
        message = f"'{model}' is the base itself: leave base_adapter out to begin with it."
        raise BadRequest(message, param=param)
    ref = target.revision
    revision = await asyncio.to_thread(open_parent, models.store, models.base, ref, param)
    return Parent(
        model=target.model,
        base_adapter=BaseAdapter(adapter=ref.adapter, digest=ref.digest),
        lora=await asyncio.to_thread(_shape, revision, param),
        param=param,
    )


def open_parent(
    store: AdapterStore, base: BaseDescription, ref: RevisionRef, param: str = FIELD
) -> Revision:
    """Open a revision, verified, to train on from. Blocks. Raises NotFound and Conflict."""
    try:
        revision = store.open(ref)
    except RevisionNotFound:
        raise model_not_found(f"{ref.adapter}@{ref.digest}", param) from None
    except StoreUnavailable:
        raise AdaptersUnavailable from None
    except InvalidAdapter as fault:
        message = f"The base adapter cannot be loaded: {fault}"
        raise Conflict(message, param=param, code="adapter_not_loadable") from None
    if revision.manifest.origin.base_digest != base.digest:
        message = "The base adapter was made for another base than the one that runs here."
        raise Conflict(message, param=param, code="adapter_base_mismatch")
    return revision


def _shape(revision: Revision, param: str) -> LoraSpec:
    content = (revision.path / "adapter_config.json").read_bytes()
    config = msgspec.json.decode(content, type=_Config)
    if config.rank_pattern or config.alpha_pattern:
        raise BadRequest(
            "An adapter of several ranks or alphas cannot be gone on from.", param=param
        )
    return LoraSpec(
        rank=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=tuple(config.target_modules),
        rslora=config.use_rslora,
    )
