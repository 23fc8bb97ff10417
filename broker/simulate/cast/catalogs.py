"""The catalogs of a simulated world."""

ENDPOINT_URL = "https://hooks.example/infermq"
DEPLOYMENTS = ("swift", "steady", "spare")


def catalog_of(*, swift_weight: int = 1, input_price: float = 1.0, has_spare: bool = True) -> str:
    """Return a catalog in TOML: a fast model with two deployments, and one whose requests fail in every way.

    The price is what `steady` costs for a million tokens of input, in USD.
    """
    route, deployment = (_SPARE_ROUTE, _SPARE) if has_spare else ("", "")
    whole = _CATALOG.replace("SPARE_ROUTE", route) + deployment
    return whole.replace("WEIGHT", str(swift_weight)).replace("PRICE", str(input_price))


_SPARE_ROUTE = """[[models.flaky.route]]
deployment = "spare"
weight = 0"""
_SPARE = """
[deployments.spare]
engine = "simulated"
max_concurrency = 2
reserve = 1
attempt_timeout_s = 20
progress_timeout_s = 8
[deployments.spare.options]
decode_tokens_per_s = 60
failures = [
  { match = "poison", kind = "crash" },
  { match = "hopeless", kind = "engine_fault" },
]
"""
_CATALOG = """
[models.quick]
endpoints = ["/v1/chat/completions"]
[[models.quick.route]]
deployment = "swift"
weight = WEIGHT
[[models.quick.route]]
deployment = "steady"
[models.quick.retry]
max_attempts = 3
backoff_base_s = 0.5
backoff_cap_s = 3.0

[models.flaky]
endpoints = ["/v1/chat/completions"]
[[models.flaky.route]]
deployment = "steady"
SPARE_ROUTE
[models.flaky.retry]
max_attempts = 3
backoff_base_s = 0.5
backoff_cap_s = 3.0

[deployments.swift]
engine = "simulated"
max_concurrency = 4
reserve = 1
attempt_timeout_s = 20
progress_timeout_s = 10
[deployments.swift.price]
input = 1.0
output = 2.0
[deployments.swift.options]
decode_tokens_per_s = 200
failures = [{ match = "poison", kind = "crash" }]

[deployments.steady]
engine = "simulated"
max_concurrency = 3
reserve = 1
attempt_timeout_s = 20
progress_timeout_s = 8
[deployments.steady.price]
input = PRICE
output = 2.0
[deployments.steady.options]
decode_tokens_per_s = 100
failures = [
  { match = "poison", kind = "crash" },
  { match = "once", kind = "engine_fault", times = 1 },
  { match = "throttled", kind = "throttled", times = 1, retry_after_ms = 700 },
  { match = "hangs", kind = "hang", times = 1 },
  { match = "raises", kind = "raise", times = 1 },
  { match = "filtered", kind = "filtered" },
  { match = "hopeless", kind = "engine_fault" },
]
"""
