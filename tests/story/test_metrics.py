"""The metrics of a running system as Prometheus reads them."""

import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.promlint import faults
from tests.system import a_catalog_file, a_system, until

pytestmark = [pytest.mark.story, pytest.mark.timeout(120)]
GOOD = "# HELP a_total What.\n# TYPE a_total counter\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pages(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """The metrics of the broker and of the worker, after jobs that succeeded, failed and were refused."""
    folder = tmp_path_factory.mktemp("system")
    bodies = ['"max_tokens": 8', '"max_tokens": 100000', '"n": 0']
    lines = [
        f'{{"custom_id": "{number}", "method": "POST", "url": "/v1/chat/completions", "body": {{"model": "m", '
        f'"messages": [{{"role": "user", "content": "x"}}], {body}}}}}\n'
        for number, body in enumerate(bodies)
    ]
    (folder / "in.jsonl").write_text("".join(lines))
    async with a_system(folder / "data", a_catalog_file(folder)) as system:
        system.command("submit", str(folder / "in.jsonl"), "--wait")
        system.command("infer", "m", "x", "--max-tokens", "4")
        system.command("infer", "gone", "x")

        async def counted() -> bool:
            return 'infermq_requests_total{result="answered"} 1.0' in page(system.info.broker_http)

        await until(counted, "the request is counted")
        [worker] = system.info.workers.values()
        yield {"broker": page(system.info.broker_http), "worker": page(worker)}


def page(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 - our own
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize("of", ["broker", "worker"])
def test_a_page_of_metrics_keeps_the_rules(pages: dict[str, str], of: str) -> None:
    assert faults(pages[of]) == []
    assert "infermq_" in pages[of]


@pytest.mark.parametrize("of", ["broker", "worker"])
def test_promtool_has_nothing_against_it(pages: dict[str, str], of: str) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed here (Debian: prometheus)")

    ran = subprocess.run(
        [promtool, "check", "metrics"], input=pages[of], capture_output=True, text=True, timeout=30, check=False
    )

    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


BROKEN = {
    "comes 2 times": GOOD + "a_total 1\na_total 2\n",
    "no help": "# TYPE a_total counter\na_total 1\n",
    "a counter by this name": "# HELP a What.\n# TYPE a counter\na 1\n",
    "a gauge by this name": "# HELP a_total What.\n# TYPE a_total gauge\na_total 1\n",
    "not in a base unit": "# HELP a_ms What.\n# TYPE a_ms gauge\na_ms 1\n",
    "a part of others": "# HELP a_count What.\n# TYPE a_count gauge\na_count 1\n",
    "capitals": "# HELP aB What.\n# TYPE aB gauge\naB 1\n",
    "its type in its name": "# HELP a_gauge What.\n# TYPE a_gauge gauge\na_gauge 1\n",
    "of histograms": GOOD + 'a_total{le="1"} 1\n',
    "no type": GOOD + "b_total 1\n",
    "not a series": GOOD + "a total 1\n",
    "does not end": GOOD + "a_total 1",
}


@pytest.mark.parametrize("says", BROKEN)
def test_a_page_that_breaks_a_rule_is_found(says: str) -> None:
    [said] = faults(BROKEN[says])

    assert says in said
