"""The command line: `lorehouse serve` and the processes that it starts."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from service import __version__
from service.maintenance import CheckFailed
from service.settings import PREFIX, Settings, SettingsError, from_environment
from service.telemetry import configure_logging, logger

DOCUMENT = Path("openapi/openapi.json")
FAILURE = 1
USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, 2 for a wrong setting."""
    arguments = _parser().parse_args(argv)
    try:
        settings = _settings()
        command: Callable[[Settings, argparse.Namespace], int | None] = arguments.command
        return command(settings, arguments) or 0
    except SettingsError as fault:
        print(f"lorehouse: {fault}", file=sys.stderr)
        return USAGE_ERROR
    except CheckFailed as fault:
        print(f"lorehouse: {fault}", file=sys.stderr)
        return FAILURE


def _settings() -> Settings:
    settings, ignored = from_environment()
    configure_logging(settings.log_level)
    if ignored:
        logger(__name__).warning("settings.ignored", names=ignored, reason="set by Kubernetes")
    return settings


def _serve(settings: Settings, _: argparse.Namespace) -> None:
    from service.server import serve

    if settings.engine == "vllm":
        _require_vllm()
    serve(settings, supervised=True, tell=_tell)


def _api(settings: Settings, _: argparse.Namespace) -> None:
    from service.server import serve

    serve(settings, supervised=False, tell=_tell)


def _runtime(settings: Settings, arguments: argparse.Namespace) -> None:
    from service.runtime.parent import die_with_parent

    if settings.engine == "vllm" and arguments.role == "generation":
        _require_vllm()
        _become("service.vllm_main")
    die_with_parent()
    from service.runtime import process

    try:
        process.run(settings, arguments.role, arguments.runtime_id)
    except SystemExit:
        _leave(FAILURE)
    _leave()


def _become(main_module: str) -> None:
    """Run this command with another main module, in this process, unless it does already."""
    spec = sys.modules["__main__"].__spec__
    if spec is None or spec.name != main_module:
        os.execv(sys.executable, [sys.executable, "-m", main_module, *sys.argv[1:]])  # noqa: S606


def _require_vllm() -> None:
    """Raise SettingsError where it is not installed."""
    if find_spec("vllm") is None:
        raise SettingsError(
            "LOREHOUSE_ENGINE: vLLM is not installed here; install the extra gpu, or use 'resident'"
        )


def _merge(settings: Settings, _: argparse.Namespace) -> None:
    from service.runtime.parent import die_with_parent

    die_with_parent()
    from service.runtime import merge_process
    from service.runtime.merge_messages import MergeOrder

    merge_process.step_back()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=MergeOrder)
    outcome = merge_process.run(settings, order)
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    _leave()


def _leave(code: int = 0) -> None:
    """End at once: torch takes seconds to take itself apart, and nothing is left to keep."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _migrate(settings: Settings, _: argparse.Namespace) -> None:
    from service.database import migrate

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    migrate.upgrade(settings.sqlalchemy_url)


def _openapi(_: Settings, arguments: argparse.Namespace) -> None:
    from service.maintenance import check_document, openapi_document

    if arguments.check is not None:
        check_document(arguments.check)
    elif arguments.output is not None:
        arguments.output.write_bytes(openapi_document())
    else:
        sys.stdout.buffer.write(openapi_document())


def _store_check(settings: Settings, arguments: argparse.Namespace) -> None:
    from service.maintenance import check_store

    check_store(settings, arguments.tenant, _tell)


def _store_collect(settings: Settings, arguments: argparse.Namespace) -> None:
    from service.maintenance import collect_store

    collect_store(settings, arguments.tenant, _tell, dry=arguments.dry_run)


def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    from service.doctor.examine import examine, shown

    told = examine(settings)
    _tell(shown(told, as_json=arguments.json))
    return 0 if told.will_run else FAILURE


def _check_migrations(_: Settings, __: argparse.Namespace) -> None:
    from service.maintenance import check_migrations

    check_migrations()


def _settings_help() -> str:
    fields = msgspec.structs.fields(Settings)
    names = "\n".join(f"  {PREFIX + field.name.upper()}" for field in fields)
    return f"settings, read from the environment and explained in the README:\n{names}"


def _tell(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorehouse",
        description="Fine-tune and serve one language model for many tenants.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, command: object, meaning: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=meaning, description=meaning)
        added.set_defaults(command=command)
        return added

    verb("serve", _serve, "Run the API, and the runtime beside it.")
    verb("api", _api, "Run the API alone.")
    runtime = verb("runtime", _runtime, "Run one runtime process (`serve` starts them by itself).")
    runtime.add_argument("role", choices=["resident", "training", "generation"])
    runtime.add_argument("--runtime-id", help="its name as the holder of leases")
    verb("merge", _merge, "Make one merged model (a runtime starts it by itself).")
    doctor = verb("doctor", _doctor, "Say whether it would run here, what, and what to do if not.")
    doctor.add_argument("--json", action="store_true", help="for machines")
    verb("migrate", _migrate, "Bring the database to the newest schema.")
    document = verb("openapi", _openapi, "Print the OpenAPI document.")
    document.add_argument("--output", type=Path, metavar="FILE", help="write it there")
    document.add_argument(
        "--check",
        type=Path,
        nargs="?",
        const=DOCUMENT,
        metavar="FILE",
        help=f"compare it with a file (default {DOCUMENT})",
    )
    _store_verbs(verb("store", None, "Look after the adapter store."))
    verb("check-migrations", _check_migrations, "Check that migrations and models agree.")
    return parser


def _store_verbs(store: argparse.ArgumentParser) -> None:
    verbs = store.add_subparsers(required=True, metavar="COMMAND")
    check = "Verify every digest; exit code 1 if anything is damaged or orphaned."
    collect = "Remove what nothing speaks of and is an hour old, and what retention lets go."
    for name, command, meaning in (
        ("check", _store_check, check),
        ("collect", _store_collect, collect),
    ):
        added = verbs.add_parser(name, help=meaning, description=meaning)
        added.set_defaults(command=command)
        added.add_argument("--tenant", help="look at this tenant's adapters only")
    added.add_argument("--dry-run", action="store_true", help="tell only what would go, and why")


if __name__ == "__main__":
    sys.exit(main())
