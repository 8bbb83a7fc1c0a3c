"""The API's process stays light: no model library, and little before it can answer."""

import subprocess
import sys

MODELS = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "vllm")


def loaded_by(module: str) -> set[str]:
    """Import a module in a fresh interpreter and name the packages that came with it."""
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_app_imports_no_model_library() -> None:
    assert loaded_by("service.app").isdisjoint(MODELS)


def test_the_socket_listens_before_the_frameworks_are_loaded() -> None:
    heavy = {"litestar", "sqlalchemy", "alembic", "advanced_alchemy", "tokenizers"}
    assert loaded_by("service.__main__, service.server").isdisjoint(heavy)
