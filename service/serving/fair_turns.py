"""Whose turn it is: the tenant that has been served least, by virtual token counters. Pure.

Algorithm 2 of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), with weights:
a counter is what a tenant was given, divided by its weight. While two tenants both have something
waiting, what they are given differs by 2 * max(INPUT * longest prompt, OUTPUT * tokens that the
batch holds) at most, over the lesser weight (theorem 4.4). Who had nothing waiting is lifted, when
it comes again, to the least of those who have: nobody saves up by being away.
"""

from collections.abc import Iterable

import msgspec

INPUT, OUTPUT = 1.0, 2.0
"""What a prompt's token counts, and a generated one's: what the paper takes, as prices are."""
REMEMBERED = 1024
"""Tenants of whom nothing is there, before they are looked through for those to forget."""


class _Account(msgspec.Struct):
    counter: float = 0.0
    weight: float = 1.0
    waiting: int = 0
    running: int = 0


class FairTurns:
    """Counts requests that wait, sequences that run, and tokens, for each tenant."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._left = _Account()
        """Of the last who has nothing waiting any more."""
        self._forget_at = REMEMBERED

    def came(self, tenant: str, weight: float) -> None:
        """Note a request that waits."""
        account = self._accounts.setdefault(tenant, _Account())
        if not account.waiting:
            account.counter = max(account.counter, self._floor())
        account.weight = weight
        account.waiting += 1
        self._forget()

    def left(self, tenant: str) -> None:
        """Note that one waits no more."""
        account = self._accounts[tenant]
        account.waiting -= 1
        if not account.waiting:
            self._left = account

    def began(self, tenant: str) -> None:
        """Note a sequence that runs."""
        self._accounts[tenant].running += 1

    def ended(self, tenant: str) -> None:
        """Note that one runs no more."""
        self._accounts[tenant].running -= 1

    def charge(self, tenant: str, *, read: int = 0, generated: int = 0) -> None:
        """Count tokens."""
        account = self._accounts[tenant]
        account.counter += (INPUT * read + OUTPUT * generated) / account.weight

    def running(self, tenant: str) -> int:
        """Tell how many of its sequences run."""
        return self._accounts[tenant].running

    @property
    def present(self) -> int:
        """How many tenants have something waiting or running."""
        return sum(1 for one in self._accounts.values() if one.waiting or one.running)

    def before_turn(self, tenants: Iterable[str], most: float) -> list[str]:
        """Give those that were given `most` tokens before their turn at most.

        That is, more than the one that waits and was served least.
        """
        floor = self._floor()
        accounts = {tenant: self._accounts[tenant] for tenant in tenants}
        return [who for who, one in accounts.items() if (one.counter - floor) * one.weight <= most]

    def next(self, tenants: Iterable[str]) -> str:
        """Tell whose turn it is among these; of equals, who has the fewest running."""
        return min(tenants, key=self._rank)

    def _rank(self, tenant: str) -> tuple[float, int]:
        account = self._accounts[tenant]
        return account.counter, account.running

    def _floor(self) -> float:
        waiting = [one.counter for one in self._accounts.values() if one.waiting]
        return min(waiting, default=self._left.counter)

    def _forget(self) -> None:
        """Drop who would be lifted at its return in any case: the floor never sinks."""
        if len(self._accounts) < self._forget_at:
            return
        floor = self._floor()
        self._accounts = {
            tenant: one
            for tenant, one in self._accounts.items()
            if one.waiting or one.running or one.counter > floor
        }
        self._forget_at = max(REMEMBERED, 2 * len(self._accounts))
