"""Estimates what an execution will cost, or has cost if nobody can report it any more.

What a deployment's executions of the last days have cost on average is the best guess, once enough of them are recorded.
Until then it is the price of the tokens that the request may use: its prompt, and all the output that it may ask for.
"""

import msgspec

from broker.core.price import price_nano_usd
from broker.core.records import Spend
from schemas.catalog import Catalog, Deployment
from schemas.endpoints import ENDPOINTS, GenerationBody
from schemas.outcome import Usage
from schemas.units import NanoUsd

ENOUGH = 20
"""How many recorded costs make a mean that is believed. A guess: the mean of a few small jobs says little of the rest."""
BYTES_PER_TOKEN = 4
"""Bytes of a body per input token, as OpenAI says of English text; the JSON around it makes the estimate a high one."""
TYPICAL_INPUT = 1000
"""Input tokens of a request of which nothing is known but that there is one. A guess."""
OUTPUT_TOKENS = 1024
"""The output of a request whose model the catalog no longer has: the catalog's own default."""
_DECODERS = {path: msgspec.json.Decoder(endpoint.body) for path, endpoint in ENDPOINTS.items()}


def request_tokens(body: bytes, endpoint: str, *, most_output: int) -> Usage:
    """Estimate the tokens of a request: those of its body, and the most output that it may get.

    `most_output` is what its model generates at most for a body that does not say. A body of several choices or prompts
    gets its output that many times.
    """
    fresh = -(-len(body) // BYTES_PER_TOKEN)
    found = ENDPOINTS.get(endpoint)
    if found is None or not found.limits:
        return Usage(fresh, 0, estimated=True)
    try:
        read = _DECODERS[endpoint].decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Usage(fresh, most_output, estimated=True)
    asked = [number for name in found.limits if (number := getattr(read, name)) is not None]
    prompts = None if found.prompts is None else getattr(read, found.prompts)
    times = len(prompts) if isinstance(prompts, list) and not _is_tokens(prompts) else 1
    if isinstance(read, GenerationBody) and read.n is not None:
        times *= max(1, int(read.n))
    return Usage(fresh, int(max(asked, default=most_output)) * times, estimated=True)


def estimated_nano_usd(tokens: Usage, deployment: Deployment | None, recorded: Spend | None) -> NanoUsd | None:
    """Estimate the cost of an execution with these `tokens` (see `request_tokens`). None: nothing says what it costs.

    `recorded` is what the deployment's executions of the last days have cost (`SpendLedger`). Their mean is taken if they
    are `ENOUGH`; else the deployment's price; and without a price the mean of however few there are.
    """
    if recorded is not None and recorded.executions >= ENOUGH:
        return mean_nano_usd(recorded)
    if deployment is not None and deployment.price is not None:
        return price_nano_usd(tokens, deployment.price)
    return mean_nano_usd(recorded) if recorded is not None and recorded.executions else None


def mean_nano_usd(recorded: Spend) -> NanoUsd:
    """Return the mean of recorded costs, rounded up. There is at least one."""
    return NanoUsd(-(-recorded.cost_nano_usd // recorded.executions))


def most_output(model: str, catalog: Catalog) -> int:
    """Return the most output tokens of a request that asks for no number, by its model."""
    found = catalog.models.get(model) or catalog.model(model)
    return OUTPUT_TOKENS if found is None else found.max_output_tokens


def most_output_on(deployment: str, catalog: Catalog) -> int:
    """Return the most output tokens of a request that asks for no number, by the models that the deployment serves."""
    found = catalog.models.values()
    routed = [model for model in found if any(entry.deployment == deployment for entry in model.route)]
    return max((model.max_output_tokens for model in routed), default=OUTPUT_TOKENS)


def _is_tokens(prompts: list[object]) -> bool:
    """Tell whether a list is one prompt, given as numbers of tokens."""
    return all(isinstance(prompt, int) for prompt in prompts)
