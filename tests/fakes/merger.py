"""A process that takes merge orders as `lorehouse merge` does, and makes models in a moment.

`python -m tests.fakes.merger HOW STORE`: `publish`; `refuse`; `die` before it publishes, and
`die_late` after; `hang` once it has written to `STORE.hanging`.
"""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from adapters_store import open_store
from service.adapters.merges_schemas import MergeFault
from service.runtime.merge_messages import MergeOrder, MergeOutcome
from service.runtime.parent import die_with_parent
from tests.builders import a_merge_origin, a_model_folder

AGREEMENT = {
    "difference": 0.01, "tolerance": 0.3, "noise": 0.1, "effect": 5.0, "tokens": 9
}  # fmt: skip


def main(how: str, where: Path) -> None:
    """Obey one order."""
    die_with_parent()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=MergeOrder)
    if how == "refuse":
        error = MergeFault(code="merge_disagrees", message="It differs.")
        answer(MergeOutcome(error=error))
    store = open_store(where, where.with_suffix(".cache"), 1 << 30)
    with store.stage() as folder:
        a_model_folder(folder)
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang":
            where.with_suffix(".hanging").write_text(str(os.getpid()))
            time.sleep(600)
        published = store.publish_merged(order.ref, folder, a_merge_origin())
    if how == "die_late":
        os.kill(os.getpid(), signal.SIGKILL)
    files = [
        {"name": name, "bytes": entry.bytes, "sha256": entry.sha256}
        for name, entry in published.manifest.files.items()
    ]
    total = sum(entry.bytes for entry in published.manifest.files.values())
    answer(MergeOutcome(result={"bytes": total, "files": files, "agreement": AGREEMENT}))


def answer(outcome: MergeOutcome) -> None:
    """Say what came of it, and end."""
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
