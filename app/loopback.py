"""This machine is asked directly, whatever proxy the environment names."""

from typing import Any, Final
from urllib.parse import urlsplit

_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_DIRECT: Final = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}


def directly(url: str) -> dict[str, Any]:
    """Options of an httpx client for a server at `url`, which else asks a proxy for this machine as well.

    httpx sets up all proxies of the environment, also those that it cannot use (ALL_PROXY=socks5://…). So
    for plain HTTP on this machine it does not look there; SSL_CERT_FILE is of no concern then.
    """
    address = urlsplit(url)
    if address.scheme == "http" and address.hostname in _NAMES:
        return {"trust_env": False}
    return {"mounts": _DIRECT}
