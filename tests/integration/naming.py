"""What a tenant's names must stand for: the promise, written again without a database."""

from collections.abc import Iterator, Sequence

import msgspec

BASE = "lorehouse-tiny"
Targets = tuple[tuple[str, int], ...]
"""Digests and weights."""


class Named(msgspec.Struct, frozen=True):
    """A callable name of a revision; `step` is a checkpoint's."""

    name: str
    adapter: str
    digest: str
    step: int | None

    @property
    def rev(self) -> str:
        return self.name.split(":")[4]


class Names:
    """One tenant's. Each change tells the status that the API must answer with."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self.models: dict[str, Named] = {}
        """By name, oldest first."""
        self.gone: set[str] = set()
        """Names that were deleted, and are not there again."""
        self._adapters: set[str] = set()
        """An adapter stays when all of its revisions are gone."""
        self._rejected: dict[tuple[str, str], int | None] = {}
        """Steps of what the publish gate rejected, by adapter and digest."""
        self._overridden: set[tuple[str, str]] = set()
        self._aliases: dict[tuple[str, str], list[Targets | None]] = {}
        """Every version; None where it was deleted."""
        self._stuck: dict[tuple[Targets, str], str] = {}

    def published(self, model: Named) -> None:
        """A job's result, or a checkpoint, is there; perhaps it was there before."""
        self._adapters.add(model.adapter)
        self.models.setdefault(model.name, model)
        self.gone.discard(model.name)
        self._rejected.pop((model.adapter, model.digest), None)
        self._overridden.discard((model.adapter, model.digest))

    def rejected(self, adapter: str, digest: str, step: int | None) -> None:
        """A result, or a checkpoint, did not pass the gate; if its content did before, it stays."""
        self._adapters.add(adapter)
        if not self.has(adapter, digest):
            self._rejected[adapter, digest] = step

    def brought(self, adapter: str, digest: str, alias: str | None) -> int:
        """Something was imported; the engine finds nothing wrong with it."""
        if (adapter, digest) in self._rejected:
            return 409
        status = 200 if self.has(adapter, digest) else 201
        if status == 201:
            name = f"ft:{BASE}:{self._tenant}:{adapter}:{digest[:8]}"
            self.published(Named(name, adapter, digest, None))
        # Sent again, an import moves nothing.
        if alias is not None and dict(self.targets(adapter, alias) or ()).keys() != {digest}:
            self.move(adapter, alias, ((digest, 1),), None)
        return status

    def override(self, adapter: str, digest: str) -> int:
        """Let a rejected revision be called; a second time changes nothing."""
        if (adapter, digest) in self._overridden:
            return 200
        if (adapter, digest) not in self._rejected:
            return 409 if self.has(adapter, digest) else 404
        step = self._rejected[adapter, digest]
        name = f"ft:{BASE}:{self._tenant}:{adapter}:{digest[:8]}"
        name += "" if step is None else f":ckpt-step-{step}"
        self.published(Named(name, adapter, digest, step))
        self._overridden.add((adapter, digest))
        return 200

    def digests(self, adapter: str) -> list[str]:
        """The adapter's revisions."""
        return list(dict.fromkeys(m.digest for m in self.models.values() if m.adapter == adapter))

    def has(self, adapter: str, digest: str) -> bool:
        """Whether the revision is there."""
        return digest in self.digests(adapter)

    def version(self, adapter: str, alias: str) -> int:
        """The alias's version; 0 when there is none."""
        return len(self._history(adapter, alias)) if self.targets(adapter, alias) else 0

    def targets(self, adapter: str, alias: str) -> Targets | None:
        """What the alias names now."""
        history = self._history(adapter, alias)
        return history[-1] if history else None

    def move(self, adapter: str, alias: str, targets: Targets, seen: int | None) -> int:
        """Move an alias for somebody who saw that version; None: for a job."""
        if adapter not in self._adapters:
            return 404
        if seen not in (None, self.version(adapter, alias)):
            return 412
        for digest, _ in targets:
            if not self.has(adapter, digest):
                return 409 if (adapter, digest) in self._rejected else 404
        self._aliases.setdefault((adapter, alias), []).append(targets)
        return 200

    def roll_back(self, adapter: str, alias: str) -> int:
        """Name again what was named one version before."""
        history = self._history(adapter, alias)
        if not history or history[-1] is None:
            return 404
        before = history[-2] if len(history) > 1 else None
        if before is None or not all(self.has(adapter, digest) for digest, _ in before):
            return 409
        history.append(before)
        return 200

    def delete_alias(self, adapter: str, alias: str, seen: int) -> int:
        """Delete an alias for somebody who saw that version."""
        if self.targets(adapter, alias) is None:
            return 404
        if seen != self.version(adapter, alias):
            return 412
        self._history(adapter, alias).append(None)
        return 200

    def delete(self, name: str) -> int:
        """Delete a model; the base is nobody's."""
        if name == BASE:
            return 403
        model = self.models.get(name)
        if model is None:
            return 404
        others = [m for m in self.models.values() if _same(m, model) and m != model]
        aliased = any(
            model.digest in dict(history[-1] or ())
            for (adapter, _), history in self._aliases.items()
            if adapter == model.adapter
        )
        if aliased and not others:
            return 409
        del self.models[name]
        if not others:
            self._overridden.discard((model.adapter, model.digest))
        self.gone.add(name)
        return 200

    def answering(self, name: str | None, key: str | None = None) -> frozenset[str]:
        """The exact names of what may answer; none: the name is not found."""
        if name == BASE:
            return frozenset([BASE])
        if name is None:
            newest = self._newest()
            return self.answering(newest.adapter, key) if newest else frozenset()
        if name in self.models:
            return frozenset([name])
        adapter, at, rest = name.partition("@")
        if targets := self.drawn_from(name):
            stuck = self._stuck.get((targets, key)) if key else None
            digests = [digest for digest, _ in targets] if stuck is None else [stuck]
            return frozenset(self._called(adapter, digest).name for digest in digests)
        if at:
            found = [m for m in self._of(adapter) if rest in (m.rev, m.digest)]
            return frozenset([self._called(adapter, found[0].digest).name] if found else [])
        newest = self._newest(adapter)
        return frozenset([newest.name] if newest else [])

    def refusing(self, name: str | None) -> int:
        """The status of a name that nothing answers to: rejected, or not found."""
        if name is None:
            return 404
        adapter, at, rev = name.partition("@")
        if name.startswith(f"ft:{BASE}:{self._tenant}:"):
            adapter, at, rev = *name.split(":")[3:4], "@", name.split(":")[4]
        of_adapter = [digest for owner, digest in self._rejected if owner == adapter]
        found = [digest for digest in of_adapter if not at or rev in (digest, digest[:8])]
        return 409 if found else 404

    def drawn_from(self, name: str | None) -> Targets | None:
        """The targets of the alias that a name stands for, if it stands for one."""
        adapter, at, rest = (name or "").partition("@")
        return self.targets(adapter, rest if at else "production")

    def stick(self, targets: Targets, key: str, digest: str) -> None:
        """A key got this one of an alias's targets, and gets no other as long as they are these."""
        assert self._stuck.setdefault((targets, key), digest) == digest

    def known(self) -> Iterator[str]:
        """All that is there, under every name that it has."""
        for model in self.models.values():
            yield model.name
            yield from (f"{model.adapter}@{rev}" for rev in (model.rev, model.digest))
            yield model.adapter
        yield from (f"{adapter}@{alias}" for adapter, alias in self._aliases)
        for adapter, digest in self._rejected:
            yield f"ft:{BASE}:{self._tenant}:{adapter}:{digest[:8]}"
            yield from (adapter, f"{adapter}@{digest[:8]}")

    def _history(self, adapter: str, alias: str) -> list[Targets | None]:
        return self._aliases.get((adapter, alias), [])

    def _of(self, adapter: str) -> Sequence[Named]:
        return [model for model in self.models.values() if model.adapter == adapter]

    def _newest(self, adapter: str | None = None) -> Named | None:
        results = [m for m in self.models.values() if m.step is None]
        return next((m for m in reversed(results) if adapter in (None, m.adapter)), None)

    def _called(self, adapter: str, digest: str) -> Named:
        """A revision by its newest name, a result's before a checkpoint's."""
        names = [m for m in self._of(adapter) if m.digest == digest]
        return max(reversed(names), key=lambda model: model.step is None)


def _same(one: Named, other: Named) -> bool:
    return (one.adapter, one.digest) == (other.adapter, other.digest)
