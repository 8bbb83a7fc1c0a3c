"""What columns of many tables have in common."""

from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

Json = dict[str, Any]
# SQLite counts up by itself only on a column of type INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")


def numbered() -> Mapped[int]:
    """Number the rows in their order."""
    return mapped_column(Sequence, primary_key=True, autoincrement=True)


def of_tenant(*, index: bool = True) -> Mapped[str]:
    """Say whose the row is; without `index` where another one begins with it."""
    return mapped_column(String(64), ForeignKey("tenants.id"), index=index)


class Leased:
    """The columns of work that one runtime at a time holds; see `leases`."""

    seq: Mapped[int] = numbered()
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant_id: Mapped[str] = of_tenant()
    status: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_token: Mapped[int] = mapped_column(Integer, default=0)
    """Counts up at every claim; a write that names an older one is refused."""
    lease_expires_at: Mapped[float | None] = mapped_column(Float(53))
    not_before: Mapped[float | None] = mapped_column(Float(53))
    """Until when it rests after a fault of ours; null: it may be claimed at once."""

    @property
    def wants_to_stop(self) -> bool:
        """Whether who holds it is asked to put it down."""
        return False
