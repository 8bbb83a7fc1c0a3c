"""What facts mean: each check's state, and what to do. Pure."""

from collections.abc import Iterator

from service.base.capabilities import Capabilities
from service.base.memory_plan import GIB
from service.doctor.facts import Base, Facts, Missing, Package
from service.doctor.findings import Finding, State
from service.settings import Settings

NEEDED = ("torch", "transformers", "peft", "trl", "bitsandbytes")
"""What training and the resident engine stand on."""
VLLM = ("vllm", "vllm-bnb-plugin")
OLDEST = (3, 11)
LITTLE_DISK, HARDLY_DISK = 10 * GIB, GIB
LITTLE_MEMORY = 2 * GIB
INSTALL = "make install"
INSTALL_VLLM = "pip install -c constraints.txt -c constraints-gpu.txt -e '.[gpu]'"


def judge(settings: Settings, facts: Facts) -> Iterator[Finding]:
    """Go through everything, in the order in which it is best mended."""
    yield _python(facts)
    yield from _packages(settings, facts)
    yield from _others(facts.packages)
    yield _driver(facts)
    yield from _gpus(facts)
    yield from _kernels(facts)
    yield _memory(facts)
    yield _disk(facts)
    yield _database(facts)
    yield _store(facts)
    yield _base(facts)
    yield _port(facts)


def _python(facts: Facts) -> Finding:
    found = f"{'.'.join(map(str, facts.python))}, {facts.cores} cores"
    if facts.python[:2] < OLDEST:
        return Finding("Python", "fail", found, "use Python 3.11 or newer")
    return Finding("Python", "ok", found)


def _packages(settings: Settings, facts: Facts) -> Iterator[Finding]:
    by_name = {one.name: one for one in facts.packages}
    for name in (*NEEDED, *VLLM):
        needed = name in NEEDED or _needs(settings, name)
        package = by_name.get(name, Package(name, None, None))
        yield _package(package, facts.can, needed=needed)


def _needs(settings: Settings, name: str) -> bool:
    """Tell whether vLLM, or its plugin for bases in NF4, is what answers."""
    return settings.engine == "vllm" and (name == VLLM[0] or settings.vllm_quantization == "nf4")


def _package(package: Package, can: Capabilities | str, *, needed: bool) -> Finding:
    name, install = package.name, INSTALL_VLLM if package.name in VLLM else INSTALL
    if package.installed is None:
        if needed:
            return Finding(name, "fail", "not installed", install)
        return Finding(name, "ok", "not installed, and not needed by these settings")
    found = package.installed
    if isinstance(can, Capabilities) and (fault := can.imports.get(name)) is not None:
        return Finding(name, "fail" if needed else "warn", f"{found}, {fault}", install)
    if package.pinned not in (None, found):
        return Finding(name, "warn", f"{found}, but {package.pinned} was tested", install)
    return Finding(name, "ok", found)


def _others(packages: list[Package]) -> Iterator[Finding]:
    """Tell of the other pins in one line: those that are there in another version."""
    with_extra = any(one.name == VLLM[0] and one.installed for one in packages)
    there = [
        one
        for one in packages
        if one.installed and (with_extra or not one.extra) and one.name not in (*NEEDED, *VLLM)
    ]
    apart = [one for one in there if one.installed != one.pinned]
    if not apart:
        yield Finding("other packages", "ok", f"{len(there)} as they were tested")
        return
    named = ", ".join(f"{one.name} {one.installed} ({one.pinned})" for one in apart[:5])
    more = f" and {len(apart) - 5} more" if len(apart) > 5 else ""
    yield Finding("other packages", "warn", f"not as tested: {named}{more}", INSTALL)


def _driver(facts: Facts) -> Finding:
    can = facts.can if isinstance(facts.can, Capabilities) else None
    gpus, cuda = (len(can.gpus), can.cuda) if can else (0, None)
    built = f"torch is built for {f'CUDA {cuda}' if cuda else 'CPUs'}"
    if facts.driver is None:
        if not gpus:
            return Finding("driver", "ok", f"no NVIDIA driver, {built}: the CPU computes")
        return Finding("driver", "ok", f"unknown, {built}")
    found = f"{facts.driver}, {built}"
    if gpus:
        return Finding("driver", "ok", found)
    advice = (
        "a newer driver, or access to the device, is needed" if cuda else "install torch for CUDA"
    )
    return Finding("driver", "warn", f"{found}, and sees no GPU: the CPU computes", advice)


def _gpus(facts: Facts) -> Iterator[Finding]:
    if not isinstance(facts.can, Capabilities):
        yield Finding("torch works", "fail", facts.can, INSTALL)
        return
    for index, gpu in enumerate(facts.can.gpus):
        major, minor = gpu.capability
        found = f"{gpu.name}, {_gib(gpu.free)} of {_gib(gpu.total)} free, sm_{major}{minor}"
        state: State = "ok"
        advice = ""
        if gpu.free < gpu.total / 2:
            state, advice = "warn", "something else holds its memory: see nvidia-smi"
        elif major < 8:
            state, advice = "warn", "it computes bf16 slowly, if at all: take a newer one"
        yield Finding(f"GPU {index}", state, found, advice)


def _kernels(facts: Facts) -> Iterator[Finding]:
    if not isinstance(facts.can, Capabilities):
        return
    for name, fault in facts.can.kernels.items():
        if fault is None:
            yield Finding(name, "ok", "computed, and right")
        else:
            advice = "on a GPU, Triton needs gcc and Python's headers; else install as pinned"
            yield Finding(name, "fail", fault, advice)


def _memory(facts: Facts) -> Finding:
    found = f"{_gib(facts.memory)} of main memory free"
    if facts.memory < LITTLE_MEMORY:
        return Finding("memory", "warn", found, "free some: the API and a runtime take about 2 GiB")
    return Finding("memory", "ok", found)


def _disk(facts: Facts) -> Finding:
    there = facts.folder
    found = f"{there.path}, {_gib(there.free)} free"
    if there.fault is not None:
        return Finding("data folder", "fail", there.fault, "set LOREHOUSE_DATA_DIR")
    if there.free < HARDLY_DISK:
        return Finding("data folder", "fail", found, "make room, or set LOREHOUSE_DATA_DIR")
    if there.free < LITTLE_DISK:
        return Finding("data folder", "warn", found, "files, checkpoints and adapters go there")
    return Finding("data folder", "ok", found)


def _database(facts: Facts) -> Finding:
    there = facts.schema
    if there.fault is not None:
        found = f"{there.url}: {there.fault}"
        return Finding("database", "fail", found, "set LOREHOUSE_DATABASE_URL, or start it")
    if there.revision is None:
        return Finding("database", "ok", f"{there.url}, empty: the first start makes its tables")
    if there.revision != there.newest:
        found = f"{there.url}, at {there.revision} of {there.newest}"
        return Finding("database", "warn", found, "the next start migrates it: back it up first")
    return Finding("database", "ok", f"{there.url}, at {there.revision}")


def _store(facts: Facts) -> Finding:
    if facts.store is not None:
        advice = "set LOREHOUSE_ADAPTER_STORE, or its credentials"
        return Finding("adapter store", "fail", facts.store, advice)
    return Finding("adapter store", "ok", "can be written to")


def _base(facts: Facts) -> Finding:
    match facts.base:
        case Base(name=name, parameters=parameters, context=context):
            found = f"{name}, {parameters:,} parameters, context {context:,}"
            return Finding("base", "ok", found)
        case Missing(why=why, fetched=True):
            return Finding(
                "base", "warn", why, "the first start fetches it; what will run is told then"
            )
        case Missing(why=why):
            return Finding("base", "fail", why, "set LOREHOUSE_BASE_MODEL")


def _port(facts: Facts) -> Finding:
    there = facts.port
    if there.fault is None:
        return Finding("port", "ok", f"{there.where} is free")
    if there.ours:
        return Finding("port", "ok", f"{there.where}: Lorehouse answers there already")
    return Finding("port", "fail", f"{there.where}: {there.fault}", "set LOREHOUSE_PORT")


def _gib(amount: int) -> str:
    return f"{amount / GIB:.1f} GiB"
