"""Many tenants' jobs from their upload to their published adapters, against the guide's script.

Ours: a running service; the clock runs from the first tenant's upload until the last adapter is
published. Starting the service is printed beside it: it happens once. The peer: `classic_script`,
one process for each tenant, one after another. It is run for one tenant and some steps, and scaled:
(its whole time + missing steps x median step) x tenants. Both train q, k, v and o on the same rows
in equally many optimizer steps. On a CPU both go in float32 and, where it multiplies bf16, in that;
each of ours stands against the quickest of the script's.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import torch

from bench import bases
from bench.measure import Row, report
from bench.running import ROOT, Service, start_job, upload
from examples.make_data import acme_answer, globex_answer, make_tickets, write_rows

BATCH = 8
PATIENCE_SECONDS = 1800
"""With one job."""


def main() -> None:
    """Run a preset."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = bases.served(folder, args)
        files = [write_tickets(folder, number, args.examples) for number in range(args.tenants)]
        scripts = {dtype: script(base, files[0], folder, dtype, args) for dtype in args.dtypes}
        best = min(scripts, key=lambda dtype: scripts[dtype])
        shape = f"{args.tenants} tenants x {args.examples} examples x {args.epochs} epochs"
        table = []
        for dtype in args.dtypes:
            tokens, ours = service(base, files, folder / dtype, dtype, args)
            case = f"{shape} in {dtype}, script in {best}"
            print(f"{case}: service {ours:,.1f} s, script {scripts[best]:,.1f} s (scaled)")
            table.append(Row(case, tokens / ours, tokens / scripts[best]))
    report("guide", args.preset, table)


def precisions(preset: str) -> list[str]:
    """List what to compute in: bf16, and on a CPU fp32, which may be all that it is good at."""
    if preset == "h200":
        return ["bfloat16"]
    capable = torch.cpu.get_capabilities()
    found = [name for name in ("avx512_bf16", "amx_bf16") if capable.get(name)]
    print(f"this CPU multiplies bf16 by: {', '.join(found) or 'nothing'}", flush=True)
    return ["bfloat16", "float32"] if found else ["float32"]


def service(
    base: Path, files: list[Path], folder: Path, dtype: str, args: Any
) -> tuple[int, float]:
    """Train all tenants' adapters; give the tokens they were trained on, and the seconds."""
    began = time.perf_counter()
    folder.mkdir()
    settings = {
        "LOREHOUSE_BASE_MODEL": str(base),
        "LOREHOUSE_TORCH_THREADS": str(args.threads),
        "LOREHOUSE_COMPUTE_DTYPE": dtype,
    }
    with Service(folder, **settings) as running:
        print(f"service ready after {time.perf_counter() - began:.1f} s", flush=True)
        tenants = [running.tenant(f"tenant-{number}") for number in range(len(files))]
        began = time.perf_counter()
        jobs = {}
        for tenant, rows in zip(tenants, files, strict=True):
            jobs[_job(tenant, rows, args.epochs)] = tenant
        print(f"all posted after {time.perf_counter() - began:.1f} s", flush=True)
        done = [published(tenant, job) for job, tenant in jobs.items()]
        seconds = time.perf_counter() - began
        return sum(int(job["trained_tokens"]) for job in done), seconds


def script(base: Path, rows: Path, folder: Path, dtype: str, args: Any) -> float:
    """Run the guide's script for one tenant and some steps; scale it to all."""
    command = [sys.executable, "-m", "bench.classic_script", "--base", str(base)]
    command += ["--data", str(rows), "--out", str(folder / "classic"), "--dtype", dtype]
    steps = math.ceil(args.examples / BATCH) * args.epochs
    if args.peer_steps < steps:
        command += ["--steps", str(args.peer_steps)]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HOME": str(folder)}
    command += ["--epochs", str(args.epochs)]
    began = time.perf_counter()
    ran = subprocess.run(  # noqa: S603 - our own program
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    if ran.returncode:
        raise RuntimeError(f"the script failed:\n{ran.stderr[-8000:]}")
    seconds = time.perf_counter() - began
    told = json.loads(ran.stdout.splitlines()[-1])
    print(
        f"script in {dtype}: {seconds:.1f} s for {told['steps']} of {steps} steps "
        f"of 1 of {args.tenants} tenants, {told['step_seconds']:.2f} s a step",
        flush=True,
    )
    return args.tenants * (seconds + (steps - told["steps"]) * told["step_seconds"])


def _job(client: httpx.Client, rows: Path, epochs: int) -> str:
    return start_job(
        client,
        upload(client, rows),
        hyperparameters={"n_epochs": epochs, "batch_size": BATCH},
        # The script holds nothing out.
        validation_split=0,
    )


def published(client: httpx.Client, job: str, *, look_seconds: float = 0.5) -> dict[str, Any]:
    """Look until a job has succeeded; give it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        now: dict[str, Any] = client.get(f"/v1/fine_tuning/jobs/{job}").raise_for_status().json()
        if now["status"] == "succeeded":
            return now
        if now["status"] in {"failed", "cancelled"}:
            raise RuntimeError(f"{job} ended {now['status']}: {now['error']}")
        time.sleep(look_seconds)
    raise RuntimeError(f"{job} is still {now['status']}: {now['error']}")


def write_tickets(folder: Path, number: int, count: int) -> Path:
    """Write one tenant's tickets; every other tenant has the other task."""
    path = folder / f"rows-{number}.jsonl"
    answer = (acme_answer, globex_answer)[number % 2]
    write_rows(path, make_tickets(1000 + number, count), answer)
    return path


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--base", type=Path, help="keep the h200 preset's base here")
    parser.add_argument("--tenants", type=int, default=16)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--epochs", type=int, help="by default 3 on a CPU and 1 on a GPU")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="only this")
    parser.add_argument("--peer-steps", type=int, help="by default 20 on a CPU and 8 on a GPU")
    parser.add_argument("--small", action="store_true", help="try the h200 preset's code on a CPU")
    args = parser.parse_args()
    args.dtypes = [args.dtype] if args.dtype else precisions(args.preset)
    args.epochs = args.epochs or (3 if args.preset == "cpu" else 1)
    args.peer_steps = args.peer_steps or (20 if args.preset == "cpu" else 8)
    return args


if __name__ == "__main__":
    main()
