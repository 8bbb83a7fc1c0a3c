"""A machine on which all is well, to take something away from."""

from typing import Any

import msgspec

from service.base.capabilities import Capabilities, Gpu
from service.doctor.facts import Base, Facts, Folder, Package, Port, Schema
from service.doctor.judging import NEEDED
from tests.properties.test_memory_plan import EIGHT_B

GIB = 2**30
GPU = Gpu("NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB, (9, 0))
CAN = Capabilities(
    imports=dict.fromkeys(NEEDED), cuda="13.0", gpus=[GPU], kernels={"products": None}
)
CPU = msgspec.structs.replace(CAN, cuda=None, gpus=[])
WELL = Facts(
    python=(3, 12, 3),
    cores=16,
    memory=128 * GIB,
    driver="580.95.05",
    packages=[
        *(Package(name, "1.0", "1.0") for name in NEEDED),
        Package("vllm", "0.30.0", "0.30.0", extra=True),
        Package("vllm-bnb-plugin", "0.0.3", "0.0.3", extra=True),
        Package("msgspec", "0.22.0", "0.22.0"),
        Package("ray", "2.0", None),
    ],
    can=CAN,
    folder=Folder("/data", 500 * GIB),
    schema=Schema("sqlite:///data/lorehouse.db", "0009", "0009"),
    store=None,
    base=Base(name="llama", parameters=8_030_261_248, context=8192, config=EIGHT_B),
    port=Port("127.0.0.1:8000"),
)


def facts(**changes: Any) -> Facts:
    return msgspec.structs.replace(WELL, **changes)
