"""`lorehouse doctor`: look, judge, tell."""

import sys

import msgspec

from service import __version__
from service.base.capabilities import capabilities
from service.base.memory import available_memory
from service.doctor import machine, places
from service.doctor.facts import Facts
from service.doctor.findings import Report, lines, report
from service.doctor.judging import NEEDED, VLLM, judge
from service.doctor.running import running
from service.settings import Settings


def examine(settings: Settings) -> Report:
    """Look at everything; takes as long as torch's import."""
    facts = look(settings)
    told = running(settings, facts)
    return report(__version__, [*judge(settings, facts), *told.findings], told.lines)


def look(settings: Settings) -> Facts:
    """Gather the facts; nothing is made but for files that go at once."""
    packages = machine.packages()
    there = {one.name for one in packages if one.installed is not None}
    wanted = NEEDED + (VLLM[:1] if settings.engine == "vllm" else ())
    return Facts(
        python=sys.version_info[:3],
        cores=machine.cores(),
        memory=available_memory(),
        driver=machine.driver(),
        packages=packages,
        can=capabilities([name for name in wanted if name in there]),
        folder=places.folder(settings),
        schema=places.schema(settings),
        store=places.store(settings),
        base=places.base(settings),
        port=places.port(settings),
    )


def shown(told: Report, *, as_json: bool) -> str:
    """Render it for a person, or for a machine."""
    return msgspec.json.encode(told).decode() if as_json else "\n".join(lines(told))
