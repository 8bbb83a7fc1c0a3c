"""the publish gate, pins, retention, merges and erasures"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("report", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_erasures")),
        sa.UniqueConstraint("id", name=op.f("uq_erasures_id")),
    )
    with op.batch_alter_table("erasures", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_erasures_tenant_id"), ["tenant_id"], unique=False)

    op.create_table(
        "engine_ids",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_engine_ids_tenant_id_tenants")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_engine_ids")),
        sa.UniqueConstraint("tenant_id", "adapter", "digest", name=op.f("uq_engine_ids_tenant_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("engine_ids", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_engine_ids_tenant_id"), ["tenant_id"], unique=False)

    op.create_table(
        "merges",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_token", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_merges_tenant_id_tenants")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_merges")),
        sa.UniqueConstraint("id", name=op.f("uq_merges_id")),
    )
    with op.batch_alter_table("merges", schema=None) as batch_op:
        batch_op.create_index("ix_merges_claim", ["status", "lease_expires_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_merges_tenant_id"), ["tenant_id"], unique=False)

    with op.batch_alter_table("adapters", schema=None) as batch_op:
        batch_op.add_column(sa.Column("keep_last", sa.Integer(), nullable=True))

    with op.batch_alter_table("fine_tuned_models", schema=None) as batch_op:
        batch_op.alter_column("job_id", existing_type=sa.VARCHAR(length=64), nullable=True)

    with op.batch_alter_table("revisions", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("status", sa.String(length=16), server_default="published", nullable=False)
        )
        batch_op.add_column(sa.Column("gate", sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column("override_reason", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("override_key_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("overridden_at", sa.BigInteger(), nullable=True))
        batch_op.add_column(
            sa.Column("pinned", sa.Boolean(), server_default=sa.false(), nullable=False)
        )


def downgrade() -> None:
    with op.batch_alter_table("revisions", schema=None) as batch_op:
        batch_op.drop_column("pinned")
        batch_op.drop_column("overridden_at")
        batch_op.drop_column("override_key_id")
        batch_op.drop_column("override_reason")
        batch_op.drop_column("gate")
        batch_op.drop_column("status")

    # Names of what was imported: of the schema before, no row could speak of them.
    op.execute("DELETE FROM fine_tuned_models WHERE job_id IS NULL")
    with op.batch_alter_table("fine_tuned_models", schema=None) as batch_op:
        batch_op.alter_column("job_id", existing_type=sa.VARCHAR(length=64), nullable=False)

    with op.batch_alter_table("adapters", schema=None) as batch_op:
        batch_op.drop_column("keep_last")

    with op.batch_alter_table("merges", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_merges_tenant_id"))
        batch_op.drop_index("ix_merges_claim")

    op.drop_table("merges")
    with op.batch_alter_table("engine_ids", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_engine_ids_tenant_id"))

    op.drop_table("engine_ids")
    with op.batch_alter_table("erasures", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_erasures_tenant_id"))

    op.drop_table("erasures")
