"""This machine is asked directly, whatever proxy the environment names."""

from typing import Final

# For the `mounts` of an httpx client, which else asks the proxy of HTTP_PROXY for these names as well.
DIRECT: Final[dict[str, None]] = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}
