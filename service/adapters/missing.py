"""The one answer to an unknown name and to a foreign one, for each kind of name."""

from service.errors import NotFound


def adapter_not_found(adapter: str) -> NotFound:
    """Say that the tenant has no such adapter."""
    message = f"The adapter '{adapter}' does not exist or you do not have access to it."
    return NotFound(message, param="adapter", code="adapter_not_found")


def alias_not_found(adapter: str, alias: str) -> NotFound:
    """Say that the tenant has no such alias."""
    message = f"The alias '{adapter}@{alias}' does not exist or you do not have access to it."
    return NotFound(message, param="alias", code="alias_not_found")


def revision_not_found(adapter: str, rev: str, param: str = "revision") -> NotFound:
    """Say that the tenant has no such revision; `param` named it."""
    message = f"The revision '{adapter}@{rev}' does not exist or you do not have access to it."
    return NotFound(message, param=param, code="revision_not_found")
