"""aliases, and the alias that a job publishes under"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alias_versions",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("targets", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("key_id", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_alias_versions_tenant_id_tenants")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_alias_versions")),
        sa.UniqueConstraint(
            "tenant_id", "adapter", "alias", "version", name=op.f("uq_alias_versions_tenant_id")
        ),
    )
    with op.batch_alter_table("alias_versions", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_alias_versions_tenant_id"), ["tenant_id"], unique=False
        )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("publish_alias", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("publish_alias")
    with op.batch_alter_table("alias_versions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_alias_versions_tenant_id"))

    op.drop_table("alias_versions")
