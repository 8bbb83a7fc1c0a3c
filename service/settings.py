"""The one settings object, read from the environment once; a bad value stops the start."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

PREFIX = "LOREHOUSE_"
BUNDLED_BASE = Path(__file__).parent / "base" / "bundled" / "lorehouse-tiny"

Positive = Annotated[int, Meta(ge=1)]


class SettingsError(Exception):
    """A setting is unknown or has a bad value; the message names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator can set. Each field is `LOREHOUSE_` + its name in upper case."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one and prints it."""
    data_dir: Path = Path("data")
    """Where files, adapters, checkpoints, the SQLite database and made-up secrets live."""
    database_url: str = ""
    """SQLAlchemy async URL; empty means SQLite in the data folder."""
    adapter_store: str = ""
    """A folder, or the URL of object storage; empty means `adapters` in the data folder."""
    adapter_cache_bytes: Annotated[int, Meta(ge=0)] = 10 * 1024**3
    """How much of object storage is kept in the data folder, beyond what is being read."""
    admin_key: Annotated[str, Meta(pattern=r"^[!-~]*$(?!\n)")] = ""
    """The operator's key; empty means one is made at first start and kept in the data folder."""
    secret: str = ""
    """Key of the hashes that API keys are stored as; empty means made like the admin key."""
    base_model: Annotated[str, Meta(min_length=1)] = str(BUNDLED_BASE)
    """A folder, or a Hugging Face id, of a causal language model."""
    base_name: Annotated[str, Meta(pattern=r"^([a-z0-9][a-z0-9.-]{0,63})?$(?!\n)")] = ""
    """The base's public id; empty means the last path segment of `base_model`."""
    quantization: Literal["nf4", "none", "auto"] = "nf4"
    """How the resident base is held."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the base computes in; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    engine: Literal["resident", "vllm"] = "resident"
    """What answers generation requests; `vllm` does so in processes of its own."""
    vllm_quantization: Literal["none", "fp8", "nf4"] = "none"
    """How vLLM holds the base."""
    vllm_memory_share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """The share of a card's memory that vLLM takes; 0: as planned, beside training."""
    vllm_eager: bool = False
    """Run vLLM without captured graphs: it starts sooner, and answers slower."""
    max_requests: Positive = 8192
    """Requests that the API answers at once, streams included; beyond it the answer is 503."""
    max_file_bytes: Positive = 512 * 1024 * 1024
    """Largest file, and largest sum of an upload's parts."""
    max_import_bytes: Positive = 1024**3
    """Largest adapter that may be imported, as it is sent and as it is unpacked."""
    max_resident_adapters: Positive = 16
    """Adapters kept in the engine; the least recently used one makes room."""
    max_lora_rank: Annotated[int, Meta(ge=1, le=256)] = 256
    """Greatest rank that the engine loads; a job that asks for more is refused."""
    max_batch: Positive = 32
    """Sequences generated at once."""
    max_queue: Positive = 1024
    """Generation requests that may wait, half of them one tenant's; beyond it the answer is 503."""
    kv_tokens: Annotated[int, Meta(ge=0)] = 0
    """Tokens that the engine's key-value cache holds; 0 is as many as memory allows."""
    checkpoint_steps: Positive = 50
    """Optimizer steps between two resumable checkpoints of a job."""
    collect_seconds: Annotated[int, Meta(ge=0)] = 600
    """Between two rounds of the collector, in the API process; 0: only by `store collect`."""
    lease_seconds: Positive = 15
    """How long a silent runtime keeps its job."""
    training_slots: Positive = 16
    """Jobs that are trained at once, in one batch."""
    gate_margin: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    """By how much, in nats, an adapter's held-out loss may be worse than the base's."""
    training_share: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    """The least share of the base's time that training keeps while requests are answered."""
    max_stall_ms: Annotated[float, Meta(ge=0)] = 0.0
    """How long training may go on without a pause; its rows shrink to that. 0: half of a step."""
    merge_shard_bytes: Positive = 2 * 1024**3
    """Largest weight file of a merged model, unless a single tensor is larger."""
    torch_threads: Annotated[int, Meta(ge=0)] = 0
    """CPU threads of a runtime process; 0 means all cores but one."""
    webhooks_private: bool = False
    """Let webhooks go to loopback and private addresses and by plain http: for an intranet."""
    tenant_limits: str = ""
    """Every tenant's quotas and rate limits, as a JSON object; a tenant's own go over them."""
    metrics_public: bool = False
    """Serve `/metrics` without the admin key."""
    metrics_tenants: Annotated[int, Meta(ge=0)] = 100
    """Tenants with labels of their own in metrics; all others share one."""
    runtime_metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Port at which a runtime serves its own metrics, without a key; 0: at none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is printed."""

    @property
    def sqlalchemy_url(self) -> str:
        """The database to use."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.resolve()}/lorehouse.db"

    @property
    def on_sqlite(self) -> bool:
        """Whether one API process has the database, and with it the data folder, to itself."""
        return self.sqlalchemy_url.startswith("sqlite")

    @property
    def generation_socket(self) -> Path:
        """Where the runtime listens for requests."""
        return self.data_dir.resolve() / "run" / "generation.sock"


def from_environment(environ: Mapping[str, str] | None = None) -> tuple[Settings, list[str]]:
    """Read the settings.

    Returns them with the names that were ignored because Kubernetes injects such variables for
    a Service called `lorehouse`. Raises SettingsError on any other unknown name or bad value.
    """
    environ = os.environ if environ is None else environ
    given = {k: v for k, v in environ.items() if k.startswith(PREFIX)}
    ignored = sorted(name for name, value in given.items() if _from_kubernetes(name, value))
    values = {k.removeprefix(PREFIX).lower(): v for k, v in given.items() if k not in ignored}
    for name in sorted(values):
        if name not in Settings.__struct_fields__:
            raise SettingsError(f"unknown setting {PREFIX}{name.upper()}")
    return _convert(values), ignored


def _convert(values: dict[str, str]) -> Settings:
    settings: dict[str, object] = {}
    types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for name, value in values.items():
        try:
            settings[name] = msgspec.convert(value, types[name], strict=False, dec_hook=_path)
        except msgspec.ValidationError as fault:
            raise SettingsError(f"{PREFIX}{name.upper()}: {_reason(fault, types[name])}") from None
    return Settings(**settings)  # type: ignore[arg-type]


def _reason(fault: msgspec.ValidationError, wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return f"it must be one of {', '.join(get_args(wanted))}"
    return str(fault)


def _path(wanted: type[object], value: str) -> object:
    """Make the one type that msgspec does not know."""
    if not value:
        # It would mean the folder that one happens to stand in.
        raise ValueError("it is empty")
    return wanted(Path(value).expanduser())  # type: ignore[call-arg]


def _from_kubernetes(name: str, value: str) -> bool:
    return name.startswith((f"{PREFIX}SERVICE_", f"{PREFIX}PORT_")) or value.startswith("tcp://")
