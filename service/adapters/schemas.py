"""Models on the wire: OpenAI's shapes."""

from service.wire import Output


class Model(Output):
    """A model that this tenant may call: the base, or one that it fine-tuned.

    `owned_by` is the tenant's id, or `lorehouse` for the base.
    """

    id: str
    object: str
    created: int
    owned_by: str


class ModelList(Output):
    """All models of a tenant; OpenAI does not page them."""

    object: str
    data: list[Model]
