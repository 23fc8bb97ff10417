"""`infermq nats-config`: what a NATS server must be configured with, so that it asks brokers who may connect."""

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.terminal import Exit, fail, reporting_errors
from broker.core.nats_config import nats_config
from broker.core.nats_keys import BadSecret
from broker.local.secrets import kept_nats_keys


def print_nats_config(
    *,
    key_file: Annotated[
        Path,
        typer.Option(
            "--key-file",
            envvar="INFERMQ_NATS_KEY_FILE",
            help="The secret of the brokers. It is made if there is none.",
        ),
    ] = Path("nats.key"),
) -> None:
    """Print the lines that a NATS server needs to ask brokers for keys, and make the brokers' secret.

    Every server of a cluster gets the same lines at the end of its configuration, and every broker the secret
    (`infermq serve --nats-key-file FILE`). The lines hold public keys only. A server takes them up when it starts, not
    when it reloads.

    Examples:
      infermq nats-config --key-file nats.key
    """
    with reporting_errors():
        try:
            keys = kept_nats_keys(key_file)
        except BadSecret as error:
            fail(f"{key_file}: {error}", Exit.USAGE)
        typer.echo(nats_config(keys), nl=False)
