"""What a registration has to know of a flow, told by the image that holds it.

    python -m etl.description etl.flow.daily_job FILE.json

A deployment whose flow is in another image than the registration's names the file that this wrote (`describedIn`).
"""

import argparse
from pathlib import Path
from typing import Any, Self

from prefect import Flow
from prefect.exceptions import MissingFlowError
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, ConfigDict, ValidationError

from etl.errors import RegistrationRefused


class Description(BaseModel):
    """A flow's name and version, what its docstring says, and the schema of its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entrypoint: str
    name: str
    version: str | None
    description: str | None
    parameters: dict[str, Any]

    @classmethod
    def of(cls, entrypoint: str) -> Self:
        """Describe a flow of this image.

        Raises:
            RegistrationRefused: the entrypoint is none.
        """
        try:
            flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
        except (ImportError, MissingFlowError) as exc:
            raise RegistrationRefused(f"{entrypoint} is no flow in this image: {exc}") from exc
        return cls(
            entrypoint=entrypoint,
            name=flow.name,
            version=flow.version,
            description=flow.description,
            parameters=parameter_schema(flow).model_dump_for_openapi(),
        )

    @classmethod
    def read(cls, path: Path, entrypoint: str) -> Self:
        """Read what another image wrote of its flow.

        Raises:
            RegistrationRefused: there is no such file, or it describes something else.
        """
        try:
            described = cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as exc:
            raise RegistrationRefused(f"{path}: the image of {entrypoint} left no description there: {exc}") from exc
        if described.entrypoint != entrypoint:
            raise RegistrationRefused(f"{path}: it describes {described.entrypoint}, and {entrypoint} is declared")
        return described


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m etl.description", description="Describes a flow of this image.")
    parser.add_argument("entrypoint", help="the flow's dotted path, such as etl.flow.daily_job")
    parser.add_argument("file", type=Path, metavar="FILE.json", help="where to write it")
    arguments = parser.parse_args()
    try:
        described = Description.of(arguments.entrypoint)
    except RegistrationRefused as exc:
        raise SystemExit(str(exc)) from exc
    arguments.file.write_text(described.model_dump_json())


if __name__ == "__main__":
    main()
