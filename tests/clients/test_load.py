"""A load tester that others wrote, with nothing but a base URL, a model, a key and a tokenizer of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel

from tests.clients.running import System

REQUESTS = 200


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tokenizer whose tokens are bytes: no hub is asked for one."""
    folder = tmp_path_factory.mktemp("tokenizer")
    whole = Tokenizer(models.BPE({character: number for number, character in enumerate(ByteLevel.alphabet())}, []))
    whole.pre_tokenizer, whole.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    whole.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_guidellm_reports_no_failed_request(system: System, tokenizer: Path, tmp_path: Path, path: str) -> None:
    report = tmp_path / "report.json"
    words = [
        *("run", "--disable-console"),
        *(
            "--backend",
            f"kind=openai_http,target={system.url},model=echo,api_key={system.api_key},request_format={path}",
        ),
        *("--tokenizer", f"kind=huggingface_auto,model={tokenizer}"),
        *("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=16"),
        *("--data-loader", f"kind=pytorch,samples={REQUESTS}"),
        *("--profile", "kind=concurrent,streams=16"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--output", f"kind=json,path={report}"),
    ]

    ran = subprocess.run(
        [Path(sys.executable).with_name("guidellm"), *words],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "GUIDELLM__MAX_WORKER_PROCESSES": "1",
        },
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    [benchmark] = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["errored"], totals["incomplete"], totals["successful"]) == (0, 0, REQUESTS)
