"""This machine is asked directly, whatever proxy the environment names."""

from typing import Any, Final
from urllib.parse import urlsplit

import httpx

_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_DIRECT: Final = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}


def open_client(url: str, **options: Any) -> httpx.AsyncClient:
    """A client for a server at `url`, which else asks a proxy for this machine as well.

    httpx sets up all proxies of the environment, also those that it cannot use (ALL_PROXY=socks5://…). So
    for plain HTTP on this machine it does not look there; SSL_CERT_FILE is of no concern then. Raises
    ValueError when a proxy cannot be used; the message says so to whoever set it.
    """
    address = urlsplit(url)
    if address.scheme == "http" and address.hostname in _NAMES:
        return httpx.AsyncClient(trust_env=False, **options)
    try:
        return httpx.AsyncClient(mounts=_DIRECT, **options)
    except (ImportError, ValueError, httpx.InvalidURL) as error:  # not their text: it may hold a password
        raise ValueError(
            "A proxy of the environment (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY) cannot be used: it must be "
            "http://host:port or https://host:port. Without those variables no proxy is asked."
        ) from error
