"""Tenants and their keys: made, listed, revoked, recognised."""

import hashlib
import hmac
import secrets

from sqlalchemy.exc import IntegrityError

from service.database import Database
from service.database.models import ApiKeyRow, TenantRow
from service.errors import BadRequest, Conflict, Unauthenticated
from service.tenants.deeds import made_secret
from service.tenants.names import is_name
from service.tenants.principal import DEFAULT_SCOPES, OPERATOR, Principal
from service.tenants.repository import TenantRepository
from service.tenants.schemas import CreateKey
from service.wire import new_id, now

KEY_PREFIX = "lh-"
KEY_BYTES = 32
HINT_LENGTH = 4


class TenantService:
    """Decides who is who. `secret` keys the hashes that keys are stored as."""

    def __init__(self, database: Database, admin_key: str, secret: str) -> None:
        self.database = database
        self.admin_key = admin_key
        self.secret = secret

    async def create(self, tenant_id: str) -> TenantRow:
        """Add a tenant; raises BadRequest for a bad id, and Conflict when it is taken."""
        if not is_name(tenant_id):
            raise BadRequest(
                "A tenant's id has 1 to 64 lower-case letters, digits, '.' and '-', and begins "
                "with a letter or digit.",
                param="id",
            )
        row = TenantRow(id=tenant_id, created_at=now())
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

    async def present(self, tenant_id: str) -> TenantRow:
        """Find a tenant that stays; raises NotFound, and Conflict while it is being erased."""
        async with self.database.read() as session:
            return await TenantRepository(session).present(tenant_id)

    async def create_key(self, tenant_id: str, wanted: CreateKey) -> tuple[ApiKeyRow, str]:
        """Make a key and return it beside its row: only its keyed hash is kept."""
        key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        row = ApiKeyRow(
            id=new_id("key_"),
            tenant_id=tenant_id,
            name=wanted.name,
            hash=self._hash(key),
            hint=key[-HINT_LENGTH:],
            scopes=sorted(set(wanted.scopes or DEFAULT_SCOPES)),
            created_at=now(),
            revoked_at=None,
        )
        async with self.database.write() as session:
            repository = TenantRepository(session)
            await repository.present(tenant_id, hold=True)
            await repository.add(row)
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
        async with self.database.read() as session:
            row = await TenantRepository(session).key_by_hash(self._hash(key))
        expired = row is not None and row.expires_at is not None and row.expires_at <= now()
        if row is None or row.revoked_at is not None or expired:
            raise Unauthenticated("Incorrect API key provided.")
        return Principal(tenant_id=row.tenant_id, key_id=row.id, scopes=frozenset(row.scopes))

    def is_admin_key(self, key: str) -> bool:
        """Compare with the admin key, in a time that tells nothing."""
        return hmac.compare_digest(key.encode(), self.admin_key.encode())

    def _hash(self, key: str) -> str:
        return hmac.new(self.secret.encode(), key.encode(), hashlib.sha256).hexdigest()
