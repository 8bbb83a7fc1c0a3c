"""Alembic's entry: runs the migrations over the async engine that advanced-alchemy configured."""

import asyncio
from typing import TYPE_CHECKING, cast

from alembic import context
from sqlalchemy import pool, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.database.models import TenantRow

if TYPE_CHECKING:
    from advanced_alchemy.alembic.commands import AlembicCommandConfig
    from sqlalchemy.engine import Connection

LOCK = 0x6C6F7265  # any number that nobody else locks in this database

config = cast("AlembicCommandConfig", context.config)


def run(connection: "Connection") -> None:
    """Apply the migrations over one connection."""
    context.configure(
        connection=connection,
        target_metadata=TenantRow.metadata,
        compare_type=config.compare_type,
        version_table=config.version_table_name,
        render_as_batch=config.render_as_batch,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Of several processes that start at once, one migrates and the others find it done.
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        context.run_migrations()


async def main() -> None:
    """Open an engine of our own: the commands run in a loop of their own."""
    engine: AsyncEngine = create_async_engine(config.db_url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


asyncio.run(main())
