"""Secrets at rest: PDF passwords, erased with the verdict, and what signs the messages of webhooks."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr


def make_key_file(path: Path) -> None:
    """A new key that only its owner can read. A file that is there stays, also one made at this moment."""
    with NamedTemporaryFile(dir=path.parent) as file:
        file.write(Fernet.generate_key())
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(file.name, path)


class PasswordCipher:
    """Fernet with the service's SECRET_KEY (32 bytes, URL-safe base64).

    Raises ValueError when the key is not a Fernet key.
    """

    def __init__(self, key: SecretStr) -> None:
        self._fernet = Fernet(key.get_secret_value())

    def encrypt(self, password: str) -> bytes:
        return self._fernet.encrypt(password.encode())

    def decrypt(self, token: bytes) -> str | None:
        """None when the token was made with another key: the password is as good as not given."""
        try:
            return self._fernet.decrypt(token).decode()
        except InvalidToken:
            return None
