"""What ten thousand registered revisions cost: lists, names, and the first token of a cold one.

One tenant has nearly all of them, several others some, and one has a single one: its figures are
the peer's, for lists and names. A cold revision is on disk and was never loaded by this runtime;
the peer is its own second request, with another prompt as long. Milliseconds, through HTTP; at a
ratio of 1 a large registry costs nothing.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import msgspec

from bench.running import Service
from bench.shelves import Filling, Shelf
from bench.workload import RANK

LARGE, SMALL = "large", "small"
LONG = "long"
"""The large tenant's adapter that has half of all revisions."""


class Times(msgspec.Struct, frozen=True):
    """Milliseconds, at the median and at the 99th percentile."""

    p50: float
    p99: float


class Line(msgspec.Struct, frozen=True):
    """One case."""

    case: str
    ours: Times
    peer: Times


def shelves(total: int) -> list[Shelf]:
    """Spread revisions over 100 adapters: a long one, most of the rest beside it."""
    each = total // 200
    of_large = [Shelf(LARGE, f"adapter-{n}", each) for n in range(91)]
    of_others = [Shelf(f"other-{n}", "adapter", each) for n in range(7)]
    rest = total - 1 - each * (len(of_large) + len(of_others))
    return [Shelf(SMALL, LONG, 1), *of_others, *of_large, Shelf(LARGE, LONG, rest)]


def times(ask: Callable[[], object], count: int) -> Times:
    """Time something, after it was done a few times."""
    for _ in range(3):
        ask()
    return _sum_up([_milliseconds(ask) for _ in range(count)])


def lists(
    large: httpx.Client, small: httpx.Client, names: Sequence[str], rounds: int
) -> list[Line]:
    """Ask both tenants for the same, one after the other."""
    deep = _revision_in_the_middle(large)
    newest, one = names[-1], _model(small)
    cases = {
        "GET /v1/adapters, 20": ("/v1/adapters", "/v1/adapters"),
        "GET /v1/adapters, 100": ("/v1/adapters?limit=100", "/v1/adapters?limit=100"),
        "GET revisions, first page": (_revisions(), _revisions()),
        "GET revisions, first 100": (_revisions("limit=100"), _revisions("limit=100")),
        "GET revisions, a page in the middle": (_revisions(f"after={deep}"), _revisions()),
        "GET /v1/models, all": ("/v1/models", "/v1/models"),
        "resolve ft:...": (f"/v1/models/{newest}", f"/v1/models/{one}"),
        "resolve an adapter": (f"/v1/models/{LONG}", f"/v1/models/{LONG}"),
        "resolve adapter@rev8": (_short(newest), _short(one)),
    }
    return [
        Line(case, times(_getting(large, path), rounds), times(_getting(small, peer), rounds))
        for case, (path, peer) in cases.items()
    ]


def first_tokens(client: httpx.Client, models: Sequence[str]) -> Line:
    """Ask each model twice; the time until the first piece of its answer."""
    _first_token(client, models[0], "Warm the server up.")
    cold, warm = [], []
    for model in models[1:]:
        cold.append(_first_token(client, model, "Where is my parcel now?"))
        warm.append(_first_token(client, model, "When does my train go?"))
    return Line(f"first token, rank {RANK}, cold against warm", _sum_up(cold), _sum_up(warm))


def main() -> None:
    """Run a preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu"], required=True)
    parser.add_argument("--revisions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--cold", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with Service(folder, LOREHOUSE_TORCH_THREADS=str(args.threads)) as service:
            report(args.preset, run(service, folder, args))


def run(service: Service, folder: Path, args: argparse.Namespace) -> list[Line]:
    """Fill the registry, then measure."""
    wanted = shelves(args.revisions)
    clients = {tenant: service.tenant(tenant) for tenant in {shelf.tenant for shelf in wanted}}
    filling = Filling(folder / "data")
    names = asyncio.run(filling.fill(wanted))
    asked = asyncio.run(filling.fill([Shelf(LARGE, "asked", args.cold + 1)], RANK))
    table = lists(clients[LARGE], clients[SMALL], names, args.rounds)
    return [*table, first_tokens(clients[LARGE], asked)]


def report(preset: str, lines: Sequence[Line]) -> None:
    """Print a table, and as the last line one JSON object."""
    width = max(len(line.case) for line in lines)
    print(f"{'case':<{width}}  {'p50 ms':>8}  {'p99 ms':>8}  {'peer p50':>8}  {'ratio':>6}")
    rows = []
    for line in lines:
        ours, peer, ratio = line.ours, line.peer, line.ours.p50 / line.peer.p50
        figures = f"{ours.p50:>8.1f}  {ours.p99:>8.1f}  {peer.p50:>8.1f}  {ratio:>6.2f}"
        print(f"{line.case:<{width}}  {figures}")
        row = {"case": line.case, "ours": round(ours.p50, 1), "peer": round(peer.p50, 1)}
        rows.append(row | {"ratio": round(ratio, 2), "p99": round(ours.p99, 1)})
    print(json.dumps({"bench": "registry", "preset": preset, "unit": "ms", "rows": rows}))


def _revision_in_the_middle(client: httpx.Client) -> str:
    """Walk to the middle of the long adapter; give the last id before it."""
    page = client.get(_revisions("limit=100")).raise_for_status().json()
    ids = [page["last_id"]]
    while page["has_more"]:
        page = (
            client.get(_revisions(f"limit=100&after={page['last_id']}")).raise_for_status().json()
        )
        ids.append(page["last_id"])
    return str(ids[len(ids) // 2])


def _revisions(query: str = "") -> str:
    return f"/v1/adapters/{LONG}/revisions?{query}"


def _model(client: httpx.Client) -> str:
    return str(client.get("/v1/models").raise_for_status().json()["data"][1]["id"])


def _short(model: str) -> str:
    *_, adapter, rev = model.split(":")
    return f"/v1/models/{adapter}@{rev}"


def _getting(client: httpx.Client, path: str) -> Callable[[], object]:
    return lambda: client.get(path).raise_for_status()


def _first_token(client: httpx.Client, model: str, prompt: str) -> float:
    body = {"model": model, "stream": True, "max_tokens": 8, "temperature": 0}
    body["messages"] = [{"role": "user", "content": prompt}]
    began = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        arrived = [time.perf_counter() for line in answer.iter_lines() if line.startswith("data:")]
    return 1000 * (arrived[0] - began)


def _milliseconds(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return 1000 * (time.perf_counter() - began)


def _sum_up(milliseconds: Sequence[float]) -> Times:
    hundredths = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return Times(statistics.median(milliseconds), hundredths[98])


if __name__ == "__main__":
    main()
