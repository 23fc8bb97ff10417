"""The benchmarks in small: that they run and print what they promise, not how fast this machine is."""

import json
from pathlib import Path

import pytest

from tests.system import infermq

pytestmark = [pytest.mark.story, pytest.mark.commands, pytest.mark.timeout(120)]
CATALOG = """
[models.m]
[[models.m.route]]
deployment = "d"

[deployments.d]
engine = "simulated"
max_concurrency = 4
[deployments.d.options]
decode_tokens_per_s = 2000.0
output_tokens = 32
"""
KEYS = {"name", "unit", "figure", "spread", "runs", "baselines", "ratios", "cpu_us_per_job", "details", "machine"}


@pytest.mark.parametrize(
    ("words", "baseline"),
    [
        (["bulk", "--jobs", "100", "--runs", "1"], "bare pipeline"),
        (["http", "--requests", "100", "--runs", "1"], "bare ASGI, bare pipeline"),
        (["interactive", "--requests", "50", "--runs", "1"], "raw NATS request-reply p50"),
        (["dispatch", "--jobs", "20", "--runs", "1"], None),
        (["submit", "--lines", "1000", "--runs", "1"], None),
        (["file", "--lines", "1000", "--runs", "1"], "in messages"),
        (["idle", "--seconds", "1", "--runs", "1"], None),
        (["saturation", "--rounds", "2", "--runs", "1", "--model", "m"], "driven directly"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_benchmark_prints_its_figure_and_its_baseline(
    words: list[str], baseline: str | None, tmp_path: Path
) -> None:
    if words[0] == "saturation":
        (tmp_path / "catalog.toml").write_text(CATALOG)
        words = [*words, "--catalog", str(tmp_path / "catalog.toml")]

    ran = infermq("bench", *words, "--json")

    assert ran.returncode == 0, ran.stderr
    figure = json.loads(ran.stdout)
    assert set(figure) == KEYS
    assert figure["figure"] >= 0
    assert len(figure["runs"]) == 1
    assert [one["name"] for one in figure["baselines"]] == (baseline.split(", ") if baseline else [])
    assert all(ratio > 0 for ratio in figure["ratios"].values())
    if words[0] == "http":
        assert set(figure["cpu_us_per_job"]) == {"broker", "worker", "NATS", "Postgres"}
        assert figure["details"]["infermq: requests/s, 128 at once"] > 0
        assert figure["details"]["ratio to bare pipeline: added p50 ms, 1 at once"] > 0
    if words[0] in {"bulk", "saturation"}:
        assert set(figure["cpu_us_per_job"]) == {"producer", "broker", "worker", "NATS", "Postgres"}


def test_a_model_that_the_catalog_has_not_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalog.toml").write_text(CATALOG)

    ran = infermq("bench", "saturation", "--catalog", str(tmp_path / "catalog.toml"), "--model", "x")

    assert ran.returncode == 2
    assert "known: m" in ran.stderr
