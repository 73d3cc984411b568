"""Sources of a secret's value: the environment, or a file that holds nothing else."""

from collections.abc import Mapping
from pathlib import Path

MAX_BYTES = 64 << 10


class SecretSource:
    """Reads secrets out of the given environment and of files; messages never hold a value."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def read(self, env: str | None, file: str | None) -> str:
        """The secret without the line end that editors add. ValueError says why there is none."""
        value, where = self._from_env(env) if env is not None else self._from_file(str(file))
        if not value:
            raise ValueError(f"{where} is empty")
        if not value.isprintable():
            raise ValueError(f"{where} holds control characters")
        return value

    def _from_env(self, name: str) -> tuple[str, str]:
        where = f"environment variable {name}"
        if name not in self._environ:
            raise ValueError(f"{where} is not set")
        return self._environ[name].rstrip("\r\n"), where

    def _from_file(self, path: str) -> tuple[str, str]:
        where = f"secret file {path}"
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise ValueError(f"{where} cannot be read: {reason}") from None
        if len(data) > MAX_BYTES:
            raise ValueError(f"{where} is larger than 64 KiB")
        try:
            return data.decode().rstrip("\r\n"), where
        except UnicodeDecodeError:
            raise ValueError(f"{where} is not UTF-8") from None
