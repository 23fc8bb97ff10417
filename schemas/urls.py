"""Shows URLs without what opens a door: passwords and tokens. Tells which door they are of, and the proxy on the way."""

import ipaddress
import re
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_PASSWORD = re.compile(r"(//[^\s/@:,]*):[^\s,]*@")
"""`//user:password@`; the password ends at the last @."""
_TOKEN = re.compile(r"\b((?:nats|tls|wss?)://)[^\s,]+@")
"""`//token@`, which NATS accepts beside `//user:password@`. Nothing of it is shown."""
_PARAMETER = re.compile(r"([?&][^=&\s]*(?:password|passwd|secret|token|nkey)[^=&\s]*=)[^&\s,]+", re.IGNORECASE)


def public(text: str) -> str:
    """Return the text with every secret of a URL in it replaced by `***`."""
    text = _PASSWORD.sub(r"\1:***@", text)
    return _PARAMETER.sub(r"\1***", _TOKEN.sub(r"\1***@", text))


def is_http(url: str) -> bool:
    """Say whether it is the URL of a broker's API over HTTP. Those of NATS may be several, and need no scheme."""
    return url.lower().startswith(("http://", "https://"))


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for it (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).

    aiohttp's own `trust_env` would also send the passwords in ~/.netrc.
    """
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxy = getproxies().get(parts.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy
