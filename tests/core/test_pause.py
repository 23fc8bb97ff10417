"""How long an API is left alone."""

from schemas.units import Ms
from schemas.worker import DENIED, THROTTLED, UPSTREAM_DOWN, Paused
from workers.core.pause import LONGEST_REQUESTED_MS, Pause

NOW = Ms(1_800_000_000_000)


def after(ms: int) -> Ms:
    return Ms(NOW + ms)


def fails(pause: Pause, now: Ms, *, for_ms: Ms | None = None) -> None:
    pause.begin(now, cause=UPSTREAM_DOWN, detail="502", for_ms=for_ms)


def test_it_doubles_up_to_a_minute_until_the_api_has_answered() -> None:
    pause, now, lengths = Pause(), NOW, []

    for _ in range(8):
        fails(pause, now)
        lengths.append(pause.left_ms(now))
        now = Ms(now + lengths[-1])
    pause.answered()
    fails(pause, now)

    assert lengths == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
    assert pause.left_ms(now) == 1_000


def test_what_fails_together_is_one_reason() -> None:
    pause = Pause()

    for _ in range(32):
        fails(pause, NOW)
    fails(pause, after(1_000))

    assert pause.left_ms(after(1_000)) == 2_000


def test_it_is_as_long_as_was_asked_within_reason() -> None:
    for asked, wait in ((0, 1_000), (7_000, 7_000), (10**9, LONGEST_REQUESTED_MS)):
        pause = Pause()
        fails(pause, NOW, for_ms=Ms(asked))
        fails(pause, NOW)

        assert pause.left_ms(NOW) == wait


def test_afterwards_it_is_in_doubt_until_something_was_answered() -> None:
    pause = Pause()

    doubts = [pause.is_in_doubt]
    fails(pause, NOW)
    doubts.append(pause.is_in_doubt)
    pause.answered()
    doubts.append(pause.is_in_doubt)

    assert doubts == [False, True, False]
    assert pause.left_ms(NOW) == 1_000
    assert pause.left_ms(after(1_000)) == 0


def test_a_shorter_one_shortens_no_longer_one() -> None:
    pause = Pause()

    fails(pause, NOW, for_ms=Ms(30_000))
    fails(pause, NOW, for_ms=Ms(2_000))

    assert pause.left_ms(NOW) == 30_000


def test_one_that_was_asked_for_doubles_nothing() -> None:
    pause = Pause()

    fails(pause, NOW, for_ms=Ms(1_000))
    fails(pause, after(1_000))

    assert pause.left_ms(after(1_000)) == 1_000


def test_an_answer_to_what_was_sent_before_does_not_end_it() -> None:
    pause = Pause()

    fails(pause, NOW)
    pause.answered()

    assert pause.left_ms(after(999)) == 1


def test_it_says_why_until_the_api_has_answered() -> None:
    pause = Pause()
    pause.begin(NOW, cause=DENIED, detail="401", for_ms=Ms(30_000))
    left = {0: 30_000, 29_999: 1, 30_000: 0, 60_000: 0}

    assert {ms: pause.state(after(ms)) for ms in left} == {
        ms: Paused(DENIED, "401", Ms(left_ms)) for ms, left_ms in left.items()
    }

    pause.answered()

    assert pause.state(after(60_000)) is None


def test_it_says_why_it_is_as_long_as_it_is() -> None:
    pause = Pause()
    pause.begin(NOW, cause=DENIED, detail="401", for_ms=Ms(30_000))

    pause.begin(NOW, cause=THROTTLED, detail="429", for_ms=Ms(2_000))
    pause.begin(after(1_000), cause=UPSTREAM_DOWN, detail="502")
    sooner = pause.state(after(1_000))
    pause.begin(after(1_000), cause=THROTTLED, detail="429", for_ms=Ms(60_000))

    assert sooner == Paused(DENIED, "401", Ms(29_000))
    assert pause.state(after(1_000)) == Paused(THROTTLED, "429", Ms(60_000))


def test_before_anything_failed_there_is_nothing_to_say() -> None:
    assert Pause().state(NOW) is None
