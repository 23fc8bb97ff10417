"""An engine that is left stops at once: the tokens of a thousand that it did not make are counted where they are made."""

import asyncio
import re
from contextlib import aclosing
from typing import Any

from schemas.engine_options import LlamaCppOptions
from tests.contract.test_engine import DEPLOYMENTS, _skip_without_model, a_request
from tests.contract.test_openai import Api, chunked, event, piece, serving
from tests.contract.test_openai import a_request as an_api_request
from workers.ports import Capacity, Chunk

THOUSAND = {
    "messages": [{"role": "user", "content": "Tell a long story."}],
    "max_tokens": 1000,
    "ignore_eos": True,
    "temperature": 0,
}


async def test_llamacpp_generates_nothing_more() -> None:
    _skip_without_model("llamacpp")
    from workers.engines.llamacpp import LlamaCpp, _file  # noqa: PLC0415 - it need not be installed

    class Counting(LlamaCpp):
        """llama.cpp counts what it generates."""

        def _set(self, params: Any) -> Any:
            params = super()._set(params)
            params.endpoint_metrics = True
            return params

        async def counts(self) -> tuple[int, int]:
            """How many tokens it has generated, counted at the end of a request, and how many requests it runs."""
            said = str(await asyncio.get_running_loop().run_in_executor(None, self._server.handle_metrics))
            names = ("tokens_predicted_total", "requests_processing")
            generated, running = (int(re.findall(rf"llamacpp:{name} (\d+)", said)[0]) for name in names)
            return generated, running

    file = _file(DEPLOYMENTS["llamacpp"].source)
    engine = Counting(file, 2048, Capacity(1, 0), LlamaCppOptions())
    await engine.start()
    try:
        seen = 0
        async with aclosing(engine.run(a_request(THOUSAND))) as steps:
            async for step in steps:
                seen += isinstance(step, Chunk)
                if seen == 20:
                    break
        await asyncio.sleep(1)

        generated, running = await engine.counts()
        await asyncio.sleep(0.3)

        assert running == 0
        assert seen - 2 <= generated < 100
        assert await engine.counts() == (generated, 0)
    finally:
        await engine.close()


async def test_the_request_to_an_api_is_closed() -> None:
    hung_up = asyncio.Event()

    class Hearing(Api):
        """It notices when its client leaves."""

        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def hear() -> None:
                while await reader.read(1024):
                    pass
                hung_up.set()

            self.left = hear
            await super().serve(reader, writer)

    async def until_it_is_left(_: asyncio.StreamWriter) -> None:
        await api.left()

    script = chunked(event(piece("so")), event(piece(" far")), then=until_it_is_left)
    api = Hearing(script)
    async with serving(script, api=api) as (_, engine):
        come_to = None
        async with aclosing(engine.run(an_api_request(streamed=True))) as steps:
            seen = 0
            async for step in steps:
                seen += isinstance(step, Chunk)
                come_to = getattr(step, "so_far", None) or come_to
                if seen == 2:
                    assert come_to is not None
                    so_far = come_to()
                    break
        async with asyncio.timeout(1):
            await hung_up.wait()

    assert b'"content": "so far"' in (so_far.body or b"")
    assert b'"finish_reason": "cancelled"' in (so_far.body or b"")
    assert so_far.usage is not None
    assert so_far.usage.output_tokens == 2
