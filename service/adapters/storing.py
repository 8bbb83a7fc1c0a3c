"""The adapter store that the settings name."""

from pathlib import Path

from adapters_store import AdapterStore, InvalidLocation, open_store
from service.settings import Settings, SettingsError


def adapter_store(settings: Settings, cache_dir: Path | None = None) -> AdapterStore:
    """Open it; the processes of a data folder share its cache by default. Raises SettingsError."""
    root = settings.data_dir.resolve()
    try:
        return open_store(
            settings.adapter_store or root / "adapters",
            cache_dir or root / "adapter_cache",
            settings.adapter_cache_bytes,
        )
    except InvalidLocation as fault:
        raise SettingsError(f"LOREHOUSE_ADAPTER_STORE: {fault}") from None
