"""Each check fails, warns or is well by the facts alone, and says what to do."""

from typing import Any

import msgspec
import pytest

from service.doctor.facts import Folder, Missing, Package, Port, Schema
from service.doctor.findings import Finding, lines, report
from service.doctor.judging import NEEDED, judge
from service.settings import Settings
from tests.unit.doctor.fixtures import CAN, CPU, GIB, GPU, WELL, facts

RESIDENT, VLLM = Settings(), Settings(engine="vllm")


def judged(settings: Settings = RESIDENT, **changes: Any) -> dict[str, Finding]:
    found = list(judge(settings, facts(**changes)))
    by_check = {one.check: one for one in found}
    assert len(by_check) == len(found)
    return by_check


def without(name: str) -> list[Package]:
    return [
        msgspec.structs.replace(one, installed=None) if one.name == name else one
        for one in WELL.packages
    ]


@pytest.mark.parametrize("settings", [RESIDENT, VLLM])
def test_where_all_is_well_nothing_is_to_be_done(settings: Settings) -> None:
    found = judged(settings)
    assert {one.state for one in found.values()} == {"ok"}
    assert not any(one.do for one in found.values())
    assert {*NEEDED, "vllm", "driver", "GPU 0", "products", "database", "port"} <= found.keys()


SMALL = msgspec.structs.replace(GPU, free=GIB)
OLD = msgspec.structs.replace(GPU, capability=(7, 5))


@pytest.mark.parametrize(
    ("changes", "check", "state", "words"),
    [
        ({"python": (3, 10, 9)}, "Python", "fail", "3.10.9"),
        ({"packages": without("torch")}, "torch", "fail", "not installed"),
        ({"packages": without("vllm")}, "vllm", "ok", "not needed"),
        ({"packages": [Package("peft", "1.0", "2.0")]}, "peft", "warn", "2.0, but 1.0"),
        ({"packages": [Package("numpy", "1", "2")]}, "other packages", "warn", "numpy 2 (1)"),
        ({"can": CPU, "driver": None}, "driver", "ok", "the CPU computes"),
        ({"can": CPU}, "driver", "warn", "built for CPUs, and sees no GPU"),
        (
            {"can": msgspec.structs.replace(CAN, gpus=[])},
            "driver",
            "warn",
            "CUDA 13.0, and sees no GPU",
        ),
        ({"can": "it ended with code -11"}, "torch works", "fail", "code -11"),
        ({"can": msgspec.structs.replace(CAN, gpus=[SMALL])}, "GPU 0", "warn", "1.0 GiB of 80.0"),
        ({"can": msgspec.structs.replace(CAN, gpus=[OLD])}, "GPU 0", "warn", "sm_75"),
        (
            {"can": msgspec.structs.replace(CAN, kernels={"products": "off by 3"})},
            "products",
            "fail",
            "off by 3",
        ),
        ({"memory": GIB}, "memory", "warn", "1.0 GiB"),
        ({"folder": Folder("/", 2 * GIB)}, "data folder", "warn", "2.0 GiB"),
        ({"folder": Folder("/", 2**20)}, "data folder", "fail", "0.0 GiB"),
        ({"folder": Folder("/", GIB, "/: Permission denied")}, "data folder", "fail", "denied"),
        ({"schema": Schema("x", None, "0009", "no route")}, "database", "fail", "no route"),
        ({"schema": Schema("x", None, "0009")}, "database", "ok", "first start makes"),
        ({"schema": Schema("x", "0008", "0009")}, "database", "warn", "0008 of 0009"),
        ({"store": "no such bucket"}, "adapter store", "fail", "no such bucket"),
        ({"base": Missing("no folder")}, "base", "fail", "no folder"),
        ({"base": Missing("not in the cache", fetched=True)}, "base", "warn", "cache"),
        ({"port": Port("x:1", "in use")}, "port", "fail", "in use"),
        ({"port": Port("x:1", "in use", ours=True)}, "port", "ok", "already"),
    ],
)
def test_one_thing_amiss_is_told_of_and_nothing_else(
    changes: dict[str, Any], check: str, state: str, words: str
) -> None:
    found = judged(**changes)[check]
    assert found.state == state
    assert words in found.found
    assert bool(found.do) == (state != "ok")


def test_what_cannot_be_imported_is_as_good_as_missing() -> None:
    broken = msgspec.structs.replace(CAN, imports={"trl": "ImportError: x", "vllm": "OSError: y"})
    assert judged(can=broken)["trl"].state == "fail"
    assert judged(can=broken)["vllm"].state == "warn"
    assert judged(VLLM, can=broken)["vllm"].state == "fail"
    assert judged(VLLM, packages=without("vllm"))["vllm"].state == "fail"


def test_vllms_plugin_is_needed_for_a_base_in_nf4_alone() -> None:
    packages = without("vllm-bnb-plugin")
    assert judged(VLLM, packages=packages)["vllm-bnb-plugin"].state == "ok"
    nf4 = Settings(engine="vllm", vllm_quantization="nf4")
    assert judged(nf4, packages=packages)["vllm-bnb-plugin"].state == "fail"


def test_the_extras_own_packages_count_only_where_it_is_installed() -> None:
    apart = Package("triton", "3.7", "3.6", extra=True)
    assert judged(packages=[*WELL.packages, apart])["other packages"].state == "warn"
    assert judged(packages=[*without("vllm"), apart])["other packages"].state == "ok"


def test_the_table_says_what_to_do_and_the_verdict_why_not() -> None:
    found = [
        Finding("a", "ok", "is well"),
        Finding("longer", "fail", "is not", "mend it"),
        Finding("c", "warn", "might be", "look"),
    ]
    told = report("1.0", found, {"engine": "resident", "x": "y"})
    assert (told.will_run, told.reasons) == (False, ["longer"])
    assert list(lines(told)) == [
        "Lorehouse 1.0",
        "",
        "ok    a       is well",
        "fail  longer  is not",
        "              -> mend it",
        "warn  c       might be",
        "              -> look",
        "",
        "What would run",
        "  engine  resident",
        "  x       y",
        "",
        "It will not run: longer.",
    ]
    well = report("1.0", [found[0], found[2]], {})
    assert list(lines(well))[-1] == "It will run."
    assert well.will_run
