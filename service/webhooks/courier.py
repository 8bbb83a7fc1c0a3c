"""Takes deliveries out of the outbox and sends them, again and again for a day.

Any number of processes may do so at once. A receiver that is slow takes up its own few places only.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable

import msgspec
import prometheus_client

from service.database import Database
from service.database.faults import AWAY
from service.database.models import DeliveryRow, WebhookRow
from service.telemetry import logger
from service.waiting import pass_time
from service.webhooks.outbox import DELIVERED, FAILED, PENDING, Outbox
from service.webhooks.schedule import DAY, HOUR, delay
from service.webhooks.sender import SECONDS, NotSent, Sender
from service.webhooks.signing import secrets_of, signed

PLACES = 256
"""Deliveries under way at once."""
EACH = 4
"""Of them, to one webhook."""
HOLD_SECONDS = 3 * SECONDS
"""How long a sender that fell silent keeps a delivery."""
LOOK_SECONDS = 1.0
GRACE_SECONDS = 2.0
KEPT_SECONDS = 30 * DAY
"""How long the log of a delivery is kept after its event."""
GONE = 410

log = logger(__name__)


class Courier:
    """One for each process; `secret` is the server's, which webhooks' secrets are derived from."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        secret: str,
        registry: prometheus_client.CollectorRegistry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.sender = sender
        self.secret = secret
        self.clock = clock
        self._attempts = prometheus_client.Counter(
            "lorehouse_webhook_attempts",
            "Attempts to deliver a webhook, by what came of them",
            ["outcome"],
            registry=registry,
        )
        self._under_way: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._cleaned_at = 0.0

    async def run(self) -> None:
        """Send for ever. What this leaves under way is sent again by whoever comes next."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self.go_round()
                except AWAY:
                    log.exception("webhooks.failed")
                await pass_time(self._wake, LOOK_SECONDS)
        finally:
            await self.finish(GRACE_SECONDS)
            self.sender.close()

    async def go_round(self) -> None:
        """Begin to send what is due and has a place; now and then clean up."""
        for delivery, webhook in await self._take():
            self._under_way[webhook.id] += 1
            task = asyncio.create_task(self._deliver(delivery, webhook))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self.clock() - self._cleaned_at > HOUR:
            await self._clean()
            self._cleaned_at = self.clock()

    async def finish(self, seconds: float) -> None:
        """Wait for what is under way, so that it need not be sent twice; cut off what is slower."""
        tasks = {*self._tasks}
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self) -> list[tuple[DeliveryRow, WebhookRow]]:
        busy, free, now = [*self._under_way], PLACES - len(self._tasks), self.clock()
        if free <= 0:
            return []
        # A look first: writers would wait for each other, and mostly nothing is due.
        async with self.database.read() as session:
            if not await Outbox(session).due(now, busy):
                return []
        async with self.database.write() as session:
            taken = Outbox(session).take(now, now + HOLD_SECONDS, limit=free, each=EACH, busy=busy)
            return [*await taken]

    async def _deliver(self, delivery: DeliveryRow, webhook: WebhookRow) -> None:
        try:
            status, error = await self._send(delivery, webhook)
            await self._settle(delivery, status, error)
        except AWAY:
            log.exception("webhook.not_settled", webhook=webhook.id, delivery=delivery.id)
        finally:
            self._under_way[webhook.id] -= 1
            if not self._under_way[webhook.id]:
                del self._under_way[webhook.id]
                self._wake.set()

    async def _send(
        self, delivery: DeliveryRow, webhook: WebhookRow
    ) -> tuple[int | None, str | None]:
        body, now = msgspec.json.encode(delivery.payload), int(self.clock())
        secrets = secrets_of(self.secret, webhook, now)
        headers = signed(secrets, delivery.event_id, now, body.decode())
        try:
            status = await self.sender.send(webhook.url, headers, body)
        except NotSent as fault:
            return None, str(fault)
        return status, _refused(status)

    async def _settle(self, delivery: DeliveryRow, status: int | None, error: str | None) -> None:
        now = self.clock()
        outcome, again = DELIVERED, None
        if error is not None:
            wait = None if status == GONE else delay(delivery.attempts, random.random())  # noqa: S311
            outcome, again = (FAILED, None) if wait is None else (PENDING, now + wait)
        self._attempts.labels("retried" if outcome == PENDING else outcome).inc()
        if outcome == FAILED:
            log.warning("webhook.given_up", tenant=delivery.tenant_id, webhook=delivery.webhook_id)
        async with self.database.write() as session:
            await Outbox(session).settle(
                delivery,
                outcome,
                next_attempt_at=again,
                delivered_at=int(now) if outcome == DELIVERED else None,
                last_status=status,
                last_error=error,
            )

    async def _clean(self) -> None:
        more = True
        while more:
            async with self.database.write() as session:
                more = await Outbox(session).clean(int(self.clock() - KEPT_SECONDS))


def _refused(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"The answer was {status}: redirects are not followed"
    return f"The answer was {status}"
