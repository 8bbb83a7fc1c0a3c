"""Tenants and their keys: made, listed, revoked, recognised."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError

from service.database import Database
from service.database.models import ApiKeyRow, TenantRow
from service.errors import BadRequest, Conflict, Unauthenticated
from service.tenants.deeds import made_secret
from service.tenants.last_used import LastUsed
from service.tenants.limits import Limits, resolve
from service.tenants.names import is_name
from service.tenants.principal import DEFAULT_SCOPES, OPERATOR, Principal
from service.tenants.quotas import Quotas, Use
from service.tenants.repository import TenantRepository, find_key, hold
from service.tenants.schemas import CreateKey, UpdateTenant
from service.wire import new_id, now

KEY_PREFIX = "lh-"
KEY_BYTES = 32
HINT_LENGTH = 4


class TenantService:
    """Decides who is who. `secret` keys the hashes that keys are stored as."""

    def __init__(self, database: Database, admin_key: str, secret: str, quotas: Quotas) -> None:
        self.database = database
        self.admin_key = admin_key
        self.secret = secret
        self.quotas = quotas
        self.last_used = LastUsed(database)

    async def create(self, tenant_id: str) -> TenantRow:
        """Add a tenant; raises BadRequest for a bad id, and Conflict when it is taken."""
        if not is_name(tenant_id):
            raise BadRequest(
                "A tenant's id has 1 to 64 lower-case letters, digits, '.' and '-', and begins "
                "with a letter or digit.",
                param="id",
            )
        row = TenantRow(id=tenant_id, created_at=now(), weight=1.0)
        try:
            async with self.database.write() as session:
                await TenantRepository(session).add(row)
        except IntegrityError:
            await self.present(tenant_id)
            raise Conflict(f"The tenant '{tenant_id}' exists already.", param="id") from None
        return row

    async def all(self) -> list[TenantRow]:
        """List all tenants."""
        async with self.database.read() as session:
            return await TenantRepository(session).all()

    async def get(self, tenant_id: str) -> TenantRow:
        """Find a tenant; raises NotFound."""
        async with self.database.read() as session:
            return await TenantRepository(session).get(tenant_id)

    async def update(self, tenant_id: str, wanted: UpdateTenant) -> TenantRow:
        """Change a tenant's weight and limits; raises NotFound."""
        async with self.database.write() as session:
            await hold(session, tenant_id)
            row = await TenantRepository(session).present(tenant_id)
            if wanted.weight is not UNSET:
                row.weight = wanted.weight
            if wanted.limits is not UNSET:
                row.limits = msgspec.to_builtins(wanted.limits) or None
        return row

    async def limits(self, tenant_id: str) -> tuple[TenantRow, Limits, Use]:
        """Tell what holds for a tenant and how much it uses; raises NotFound."""
        async with self.database.read() as session:
            row = await TenantRepository(session).get(tenant_id)
            used = await self.quotas.use(session, tenant_id)
        return row, resolve(self.quotas.defaults, row.limits), used

    async def present(self, tenant_id: str) -> TenantRow:
        """Find a tenant that stays; raises NotFound, and Conflict while it is being erased."""
        async with self.database.read() as session:
            return await TenantRepository(session).present(tenant_id)

    async def create_key(self, tenant_id: str, wanted: CreateKey) -> tuple[ApiKeyRow, str]:
        """Make a key and return it beside its row: only its keyed hash is kept.

        Raises BadRequest for an expiry that is past.
        """
        if wanted.expires_at is not None and wanted.expires_at <= now():
            raise BadRequest("'expires_at' is not in the future.", param="expires_at")
        scopes = sorted(set(wanted.scopes or DEFAULT_SCOPES))
        row, key = self._made(tenant_id, wanted.name, scopes, wanted.expires_at)
        async with self.database.write() as session:
            repository = TenantRepository(session)
            await repository.present(tenant_id, hold=True)
            await repository.add(row)
            made_secret(row.id)
        return row, key

    async def rotate(
        self, tenant_id: str, key_id: str, overlap_seconds: int
    ) -> tuple[ApiKeyRow, str]:
        """Make a key that replaces another, which ends when the overlap does, or before.

        Raises NotFound, and Conflict for a key that has ended or was replaced already.
        """
        async with self.database.write() as session:
            repository = TenantRepository(session)
            await repository.present(tenant_id)
            old = await repository.key(tenant_id, key_id)
            if not _good(old) or old.replaced_by is not None:
                raise Conflict(f"The API key {key_id} has ended, or was rotated.", param="key_id")
            row, key = self._made(tenant_id, old.name, old.scopes, old.expires_at)
            await repository.add(row)
            ends = now() + overlap_seconds
            old.expires_at = ends if old.expires_at is None else min(ends, old.expires_at)
            old.replaced_by = row.id
            made_secret(row.id)
        return row, key

    async def keys(self, tenant_id: str) -> list[ApiKeyRow]:
        """List a tenant's keys; raises NotFound when there is no such tenant."""
        async with self.database.read() as session:
            repository = TenantRepository(session)
            await repository.get(tenant_id)
            return await repository.keys(tenant_id)

    async def revoke(self, tenant_id: str, key_id: str) -> None:
        """End a key's life from the next request on; revoking twice is no error."""
        async with self.database.write() as session:
            row = await TenantRepository(session).key(tenant_id, key_id)
            row.revoked_at = row.revoked_at or now()

    async def authenticate(self, key: str) -> Principal:
        """Find the key's holder; raises Unauthenticated when it is wrong or revoked."""
        if self.is_admin_key(key):
            return OPERATOR
        found = await find_key(self.database, self._hash(key))
        if found is None or not _good(found):
            raise Unauthenticated("Incorrect API key provided.")
        self.last_used.note(found, now())
        return Principal(
            tenant_id=found.tenant_id,
            key_id=found.id,
            scopes=frozenset(found.scopes),
            limits=resolve(self.quotas.defaults, found.limits),
            weight=found.weight,
        )

    def is_admin_key(self, key: str) -> bool:
        """Compare with the admin key, in a time that tells nothing."""
        return hmac.compare_digest(key.encode(), self.admin_key.encode())

    def _made(
        self, tenant_id: str, name: str, scopes: Sequence[str], expires_at: int | None
    ) -> tuple[ApiKeyRow, str]:
        key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        row = ApiKeyRow(
            id=new_id("key_"),
            tenant_id=tenant_id,
            name=name,
            hash=self._hash(key),
            hint=key[-HINT_LENGTH:],
            scopes=[*scopes],
            created_at=now(),
            expires_at=expires_at,
        )
        return row, key

    def _hash(self, key: str) -> str:
        return hmac.new(self.secret.encode(), key.encode(), hashlib.sha256).hexdigest()


def _good(key: ApiKeyRow | Row[Any]) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now())
