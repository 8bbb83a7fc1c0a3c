"""A PostgreSQL of the tests' own: a server in a temporary folder, behind a unix socket."""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import asyncpg

UNPRIVILEGED = "nobody"
"""Who runs it where the tests run as root, which PostgreSQL refuses."""

OPTIONS = {
    "listen_addresses": "''",
    # A machine that loses its power may lose the tests' data; a killed process still may not.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
}

EMPTY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$ DECLARE name text; BEGIN
  SET LOCAL session_replication_role = replica;  -- in any order, whatever refers to what
  FOR name IN SELECT tablename FROM pg_tables
      WHERE schemaname = 'public' AND tablename NOT LIKE 'alembic%' LOOP
    EXECUTE format('DELETE FROM %I', name);
  END LOOP;
  FOR name IN SELECT sequencename FROM pg_sequences WHERE last_value IS NOT NULL LOOP
    EXECUTE format('ALTER SEQUENCE %I RESTART', name);
  END LOOP;
END $$
"""


class Postgres:
    """One server, which may be stopped and started again. As a context it is running."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lorehouse-pg-"))
        self.user = UNPRIVILEGED if os.geteuid() == 0 else None
        self.bin = self._binaries()
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self._run("initdb", "-U", "postgres", "--no-sync", "--no-locale", "--encoding=UTF8")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        given = {**OPTIONS, "unix_socket_directories": str(self.folder)}
        options = " ".join(f"-c {name}={value}" for name, value in given.items())
        self._run("pg_ctl", "start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        """Cut every connection and end at once, as a crash does: what was committed stays."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run statements in a database. Not inside an event loop."""
        asyncio.run(self._execute(statement, database))

    def empty(self, database: str) -> None:
        """Make a database as it was after its migrations: much quicker than a new one."""
        self.execute(EMPTY, database)

    def url(self, database: str) -> str:
        """Give SQLAlchemy's URL of a database."""
        return f"postgresql+asyncpg://postgres@/{database}?host={self.folder}"

    async def _execute(self, statement: str, database: str) -> None:
        connection = await asyncpg.connect(
            host=str(self.folder), user="postgres", database=database
        )
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _binaries(self) -> Path:
        """Find the package's programs, or copy them to where another user may run them.

        Importing it would start to keep records in this user's home.
        """
        package = importlib.util.find_spec("pgserver")
        assert package is not None
        assert package.origin is not None
        here = Path(package.origin).parent
        if self.user is None:
            return here / "pginstall" / "bin"
        for name in ("pgserver/pginstall", "pgserver.libs"):
            shutil.copytree(here.parent / name, self.folder / "programs" / name)
        return self.folder / "programs" / "pgserver" / "pginstall" / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        with tempfile.TemporaryFile() as output:
            # A file, not a pipe: the server inherits it, and a pipe would never end.
            done = subprocess.run(
                [str(self.bin / program), "-D", str(self.folder / "data"), *arguments],
                user=self.user,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode()
