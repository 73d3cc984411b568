"""A secret, which the policy file only points to."""

from dataclasses import dataclass, field
from typing import Annotated

from policies.config.forms import ENV_NAME, PATH
from policies.config.kind import UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Source of a secret, and its value once loaded with `secrets=True`; `repr` never shows the value.

    env: name of an environment variable
    file: path of a file that holds nothing else
    """

    env: Annotated[str | None, ENV_NAME, UNSET] = None
    file: Annotated[str | None, PATH, UNSET] = None
    value: str | None = field(default=None, repr=False, metadata={"key": False})

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ValueError("a secret is {env: NAME} or {file: PATH}")
