"""The form of an import, as the OpenAPI document describes it."""

from dataclasses import dataclass

from litestar.openapi.spec import OpenAPIType, Operation, Schema

from service.adapters.aliases_schemas import LONGEST_REASON, TEXT
from service.adapters.imports_schemas import ARCHIVE, CONFIG, FORMATS, WEIGHTS
from service.adapters.names import PATTERN
from service.datasets.forms import binary, form


@dataclass
class ImportForm(Operation):
    """The body of `importAdapter`."""

    def __post_init__(self) -> None:
        """Describe what the handler reads off the stream by itself."""
        text = OpenAPIType.STRING
        self.request_body = form(
            ["adapter"],
            {
                ARCHIVE: binary("A tar, plain or in gzip, of PEFT's folder or of an export."),
                CONFIG: binary("Instead of `file`: adapter_config.json."),
                WEIGHTS: binary("Instead of `file`: adapter_model.safetensors."),
                "adapter": Schema(
                    type=text, pattern=f"^{PATTERN}$", description="The adapter it is to be of."
                ),
                "format": Schema(
                    type=text,
                    enum=list(FORMATS),
                    description="How a bare prompt is rendered for it. Default: as of the export, "
                    "else `chat`.",
                ),
                "alias": Schema(
                    type=text, pattern=f"^{PATTERN}$", description="An alias that is to name it."
                ),
                "reason": Schema(
                    type=text,
                    min_length=1,
                    max_length=LONGEST_REASON,
                    pattern=TEXT,
                    description="Why the alias moves.",
                ),
            },
            one_of=[Schema(required=[ARCHIVE]), Schema(required=[CONFIG, WEIGHTS])],
        )
