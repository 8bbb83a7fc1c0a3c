"""What is looked at in the child that looks; see tests/integration/test_doctor.py for the child."""

import pytest

from service.base.capabilities import examine

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


def test_where_gpus_are_asked_for_alone_no_kernel_is_tried() -> None:
    found = examine(["torch"], kernels=False)
    assert found.imports == {"torch": None}
    assert found.cuda == torch.version.cuda
    assert len(found.gpus) == torch.cuda.device_count()
    assert found.kernels == {}
