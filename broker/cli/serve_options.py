"""The options of `infermq serve`: what it does, how the API over HTTP is served, and where files are kept."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from broker.blobs.errors import INSTALL
from broker.config import API_CERTIFICATE, API_CERTIFICATE_KEY, ApiConfig, BrokerRole, WebhookConfig, http_limits
from broker.core.file_stores import POSTGRES, BucketPlace, place_of

ApiHost = Annotated[
    str,
    typer.Option(envvar="INFERMQ_API_HOST", help="Where the API over HTTP listens; without keys on loopback only."),
]
ApiPort = Annotated[int, typer.Option(min=0, max=65535, envvar="INFERMQ_API_PORT", help="Its port; 0: any free one.")]


def _roles(text: str | None) -> str | None:
    """Check the names. Raises: typer.BadParameter."""
    for name in (text or "").split(",") if text is not None else ():
        if name.strip() not in list(BrokerRole):
            raise typer.BadParameter(f"there is no role {name.strip()!r}: they are {', '.join(BrokerRole)}")
    return text


Roles = Annotated[
    str | None,
    typer.Option(
        envvar="INFERMQ_ROLES",
        callback=_roles,
        help=f"What it does, of {', '.join(BrokerRole)}, with commas between them; by default all.",
    ),
]


def _check_limits(told: list[str]) -> list[str]:
    """Raises: typer.BadParameter."""
    try:
        http_limits(told)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return told


def _check_origins(told: list[str]) -> list[str]:
    """Raises: typer.BadParameter."""
    for one in told:
        parts = urlsplit(one)
        if one != "*" and (not parts.netloc or one != f"{parts.scheme}://{parts.netloc}"):
            raise typer.BadParameter(f"{one!r} is no origin: it is like https://app.example, without a path, or *")
    return told


ApiLimits = Annotated[
    list[str],
    typer.Option(
        "--api-limit",
        metavar="NAME=NUMBER",
        envvar="INFERMQ_API_LIMITS",
        callback=_check_limits,
        help="What a client of the API over HTTP may take, such as body_s=60; several times for several.",
    ),
]
ApiTlsCert = Annotated[
    Path | None,
    typer.Option(envvar=API_CERTIFICATE, help="The certificate that the API over HTTP shows; else no TLS."),
]
ApiTlsKey = Annotated[
    Path | None, typer.Option(envvar=API_CERTIFICATE_KEY, help="The file of its key, if that is another.")
]
CorsOrigins = Annotated[
    list[str],
    typer.Option(
        "--cors-origin",
        metavar="ORIGIN",
        envvar="INFERMQ_CORS_ORIGINS",
        callback=_check_origins,
        help="Whose pages in browsers may call the API over HTTP, such as https://app.example; *: all.",
    ),
]
AccessLog = Annotated[
    bool, typer.Option("--access-log", envvar="INFERMQ_ACCESS_LOG", help="Log a line for each answer over HTTP.")
]


def _check_targets(told: list[str]) -> list[str]:
    """Raises: typer.BadParameter."""
    try:
        webhook_config(told, http=False).targets()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return told


WebhookAllow = Annotated[
    list[str],
    typer.Option(
        "--webhook-allow",
        metavar="TARGET",
        envvar="INFERMQ_WEBHOOK_ALLOW",
        callback=_check_targets,
        help="Where webhooks may go that is not public: a host, an address, or a network such as 10.0.0.0/8.",
    ),
]
WebhookHttp = Annotated[
    bool, typer.Option("--webhook-http", envvar="INFERMQ_WEBHOOK_HTTP", help="Let webhooks go over plain HTTP too.")
]


def _store_of_files(told: str) -> str:
    """Read where files are kept; the path of a directory will do too. Raises: typer.BadParameter."""
    if told == POSTGRES:
        return told
    url = told if "://" in told else Path(told).absolute().as_uri()
    try:
        place = place_of(url)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if isinstance(place, BucketPlace) and importlib.util.find_spec("obstore") is None:
        raise typer.BadParameter(INSTALL)
    return url


KeptFiles = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar="INFERMQ_FILES",
        callback=_store_of_files,
        help="Where stored files go: postgres, a directory (file:///srv/infermq-files), or s3://bucket/prefix.",
    ),
]


def webhook_config(allow: Sequence[str], *, http: bool) -> WebhookConfig:
    """In the environment several targets stand with spaces between them; commas will do too."""
    return WebhookConfig(allow=tuple(one for text in allow for one in text.replace(",", " ").split()), http=http)


def api_config(
    limits: Sequence[str], certificate: Path | None, key: Path | None, origins: Sequence[str], *, access_log: bool
) -> ApiConfig:
    """Raises: typer.BadParameter."""
    if key is not None and certificate is None:
        raise typer.BadParameter("--api-tls-key is the key of a certificate: name that with --api-tls-cert")
    return ApiConfig(
        limits=http_limits(limits),
        certificate=_absolute(certificate),
        certificate_key=_absolute(key),
        cors_origins=tuple(origins),
        access_log=access_log,
    )


def _absolute(file: Path | None) -> str | None:
    return None if file is None else str(file.absolute())
