"""Whose job makes room when a tenant waits while others hold more than their share. Pure."""

from collections.abc import Collection

import msgspec


class Load(msgspec.Struct, frozen=True):
    """What one tenant has of the places there are, and whether it waits for another."""

    tenant: str
    weight: float
    """Above 0."""
    running: int
    waits: bool


def gives_way(loads: Collection[Load]) -> str | None:
    """Name the tenant that is to put one of its jobs down for another's; None: nobody is.

    It still has at least as much for its weight then as the other has with it: so no place ever
    goes to and fro, and nobody's only job makes room.
    """
    waiting = [load for load in loads if load.waits]
    holding = [load for load in loads if load.running]
    if not waiting or not holding:
        return None
    least = min(load.running / load.weight for load in waiting)
    # Among equals it is whose turn is longest ago, which nobody knows here.
    equals = [load for load in waiting if load.running / load.weight == least]
    gained = max((load.running + 1) / load.weight for load in equals)
    most = max(holding, key=lambda load: ((load.running - 1) / load.weight, load.tenant))
    return most.tenant if gained <= (most.running - 1) / most.weight else None
