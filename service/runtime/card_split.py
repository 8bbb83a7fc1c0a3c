"""How a card is split where vLLM answers and a base is trained on it: both sides ask, and agree."""

from service.base.card_sharing import RESERVED, Card, NoRoom, Shared, share
from service.base.description import BaseDescription
from service.base.memory import available_memory
from service.base.model_shape import UnknownShape, shape_of
from service.base.wanted import sharing
from service.serving.admission import at_once
from service.settings import Settings
from service.telemetry import logger

_log = logger(__name__)


class CardTooSmall(Exception):
    """It does not hold vLLM and training, not even in turns; the message has the figures."""


def split(settings: Settings, base: BaseDescription, total: int) -> Shared | None:
    """Split a card of `total` bytes, taken as free: it does not matter who asks first.

    None where the operator says what vLLM takes, and for a base of a kind whose needs nobody knows
    beforehand. Raises CardTooSmall.
    """
    if settings.vllm_memory_share:
        return None
    try:
        model = shape_of(base.config)
    except UnknownShape as fault:
        _log.warning("card.not_split", reason=str(fault))
        return None
    wanted = sharing(settings, base.context_length, at_once(settings.max_batch), model)
    card = Card(total, total - RESERVED, available_memory())
    found = share(model, card, wanted.served, wanted.held, wanted.demand)
    if isinstance(found, NoRoom):
        raise CardTooSmall(found.figures)
    return found
