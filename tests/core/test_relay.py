"""What follows each event of an interactive request."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.relay import (
    AGAIN_MS,
    KEEPALIVE_MS,
    PICK_UP_MS,
    SILENCE_MS,
    STORE_MS,
    UNHEARD_MS,
    Abort,
    Action,
    Answered,
    Assignment,
    CallerBehind,
    CallerLeft,
    CallerMessage,
    CancelAsked,
    Erred,
    Event,
    KeptAlive,
    Publish,
    RequestState,
    Rule,
    Said,
    Started,
    Stopping,
    Stored,
    Streamed,
    Tell,
    Ticked,
    TurnCame,
    TurnDenied,
    TurnedBack,
    Unstored,
    WorkerDied,
    WorkerMessage,
    ends_request,
)
from broker.core.reserve import ModelGone, NoRoom, NotPlaced, Placement, Poison
from broker.core.retry import DEFAULT
from schemas.api import Problem
from schemas.catalog import Retry
from schemas.job import Lane
from schemas.outcome import (
    BadRequest,
    Cancelled,
    EngineFault,
    EngineLost,
    Expired,
    Failed,
    Outcome,
    Released,
    Throttled,
)
from schemas.subjects import WorkerId
from schemas.units import Ms
from tests.builders import a_success, an_entry

DEADLINE_MS = 60_000
FAULT = Erred(Problem("engine_fault", "x"), "1", EngineFault("x"))
"""Another deployment may do better."""
REFUSAL = Erred(Problem("bad_request", "x"), "1")
"""No other would."""
PIECE = Streamed(b"one", "1")
WHOLE = Answered(b"all", "2")


@dataclass
class Script:
    """A request that began at 0 with a minute to go, and everything that was done for it."""

    route: list[str]
    """The deployments with room, in the order in which they are chosen."""
    none_left: NotPlaced = field(default_factory=lambda: NoRoom([]))
    policy: Retry = DEFAULT
    own_attempts: int = 3
    apart: str | None = None
    """The worker that takes it apart, when no deployment is left."""
    waits: bool = False
    """Whether every slot is taken when it begins."""
    now: int = 0
    done: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tokens = iter(range(1_000_000))
        entry = an_entry(
            lane=Lane.INTERACTIVE, admitted_ms=Ms(0), deadline_ms=Ms(DEADLINE_MS), max_attempts=self.own_attempts
        )
        first = Placement(self.route[0], str(next(self._tokens)))
        self.request = RequestState(
            entry, first, relay="b", place=self._place, policy=lambda _: self.policy, now=Ms(0), waits=self.waits
        )
        self.done += self.request.begin()

    def _place(self, model: str, tried: Collection[str]) -> Placement | NotPlaced:
        assert model == "m"
        left = [name for name in self.route if name not in tried]
        if not left and self.apart is not None:
            return Placement(self.route[0], str(next(self._tokens)), WorkerId(self.apart), is_apart=True)
        return Placement(left[0], str(next(self._tokens))) if left else self.none_left

    def on(self, event: Event) -> Sequence[Action]:
        actions = self.request.on(event, Ms(self.now))
        self.done += actions
        return actions

    def says(self, message: WorkerMessage) -> Sequence[Action]:
        """Of the present attempt."""
        return self.on(Said(self.request.assignment.token, message))

    def dies(self) -> Sequence[Action]:
        """The worker of the present attempt."""
        return self.on(WorkerDied(self.request.assignment.token))

    def passes(self, ms: int) -> Sequence[Action]:
        self.now += ms
        return self.on(Ticked())

    @property
    def told(self) -> list[CallerMessage]:
        return [action.message for action in self.done if isinstance(action, Tell)]

    @property
    def handed(self) -> list[Assignment]:
        return [action.assignment for action in self.done if isinstance(action, Publish)]

    @property
    def aborted(self) -> list[Assignment]:
        return [action.assignment for action in self.done if isinstance(action, Abort)]

    @property
    def ruled(self) -> list[Failed | Expired | Cancelled]:
        return [action.outcome for action in self.done if isinstance(action, Rule)]

    @property
    def problem(self) -> str:
        """The code of the error that the caller was told in the end."""
        [end] = [word for word in self.told if isinstance(word, Erred)]
        return end.problem.code


def test_an_answer_is_passed_on_as_the_worker_says_it() -> None:
    script = Script(["d"])

    for word in (KeptAlive(), PIECE, PIECE, WHOLE):
        script.says(word)

    assert script.told == [KeptAlive(), Started(), PIECE, PIECE, WHOLE]
    assert (script.ruled, script.aborted, script.request.is_over) == ([], [], True)


def test_an_attempt_names_where_its_worker_answers() -> None:
    [handed] = Script(["d"]).handed

    assert (handed.attempt.number, handed.attempt.deployment) == (1, "d")
    assert handed.attempt.reply_to == f"infermq.reply.d.b.{handed.token}"


def test_what_one_deployment_fails_the_next_takes_and_the_caller_hears_nothing_of_it() -> None:
    script = Script(["d", "e", "f"])

    script.says(FAULT)
    script.says(FAULT)
    script.says(WHOLE)

    assert [(handed.attempt.number, handed.attempt.deployment) for handed in script.handed] == [
        (1, "d"),
        (2, "e"),
        (3, "f"),
    ]
    assert (script.told, script.ruled, script.aborted) == ([WHOLE], [], [])


def test_what_every_deployment_fails_ends_with_the_last_failure() -> None:
    script = Script(["d", "e"])

    script.says(FAULT)
    script.says(Erred(Problem("throttled", "y"), "1", Throttled()))

    assert (script.problem, script.ruled) == ("throttled", [Failed(Throttled())])


def test_a_request_has_no_more_attempts_than_it_may_have_of_those_that_count() -> None:
    script = Script(["d", "e", "f", "g"], own_attempts=2)

    script.says(Erred(Problem("throttled", "y"), "1", Throttled()))
    script.says(FAULT)
    script.says(FAULT)

    assert [handed.attempt.deployment for handed in script.handed] == ["d", "e", "f"]
    assert (script.problem, script.ruled) == ("engine_fault", [Failed(EngineFault("x"))])


def test_a_class_that_the_model_never_tries_again_ends_the_request() -> None:
    script = Script(["d", "e"], policy=Retry(attempts={"engine_fault": 1}))

    script.says(FAULT)

    assert (script.ruled, len(script.handed)) == ([Failed(EngineFault("x"))], 1)


def test_a_lost_worker_uses_up_an_attempt() -> None:
    script = Script(["d", "e"], own_attempts=1)
    script.on(Stored("0"))

    script.passes(PICK_UP_MS)

    assert (script.problem, len(script.handed), len(script.aborted)) == ("no_worker", 1, 1)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [("bad_request", Failed(EngineFault("x"))), ("cancelled", Cancelled())],
)
def test_a_failure_that_no_other_deployment_mends_is_passed_on(code: str, outcome: Outcome) -> None:
    script, error = Script(["d", "e"]), Erred(Problem(code, "x"), "1")

    script.says(error)

    assert (script.told, script.ruled, len(script.handed)) == ([error], [outcome], 1)


def test_a_worker_cannot_say_that_the_time_of_a_request_is_up() -> None:
    script, early = Script(["d", "e"]), Erred(Problem("expired", "x"), "1")

    script.says(early)
    assert [handed.attempt.deployment for handed in script.handed] == ["d", "e"]
    script.says(early)

    assert (script.problem, script.ruled) == (
        "engine_fault",
        [Failed(EngineLost("the worker ended the request before its time was up"))],
    )


def test_once_something_was_streamed_no_other_deployment_takes_it() -> None:
    script = Script(["d", "e"])

    script.says(PIECE)
    script.says(FAULT)

    assert (script.told[-1], script.ruled, len(script.handed)) == (FAULT, [Failed(EngineFault("x"))], 1)


def test_an_attempt_that_no_worker_took_is_given_up_on_in_its_own_time() -> None:
    script = Script(["d", "e"])
    script.on(Stored("0"))

    assert not script.passes(PICK_UP_MS - 1)
    script.passes(1)
    script.on(Stored("1"))
    assert not script.passes(PICK_UP_MS - 1)
    script.passes(1)

    assert [handed.attempt.deployment for handed in script.aborted] == ["d", "e"]
    assert (script.problem, len(script.handed)) == ("no_worker", 2)
    assert isinstance(script.ruled[0], Failed)
    assert isinstance(script.ruled[0].failure, EngineLost)


def test_a_worker_that_was_heard_and_went_silent_is_given_up_on() -> None:
    script = Script(["d"])

    for _ in range(4):
        script.says(KeptAlive())
        assert not script.passes(SILENCE_MS - 1)
    script.passes(1)

    assert (script.problem, len(script.aborted)) == ("worker_lost", 1)


def test_a_worker_that_goes_silent_in_its_answer_is_not_followed_by_another() -> None:
    script = Script(["d", "e"])
    script.says(PIECE)

    script.passes(SILENCE_MS)

    assert (script.problem, len(script.handed), len(script.aborted)) == ("worker_lost", 1, 1)


def test_at_the_deadline_a_caller_hears_the_same_whoever_notices_it_first() -> None:
    script = Script(["d", "e"], now=DEADLINE_MS)

    script.says(Erred(Problem("expired", "the deadline passed"), "1"))

    assert (script.problem, script.ruled, len(script.handed)) == ("timed_out", [Expired()], 1)


def test_a_deadline_ends_a_request_whatever_was_heard() -> None:
    for heard in (False, True):
        script = Script(["d", "e"], now=DEADLINE_MS - 1)
        if heard:
            script.says(KeptAlive())
            assert not script.passes(0)
        script.passes(1)

        assert (script.problem, script.ruled, len(script.aborted)) == ("timed_out", [Expired()], 1)
        assert len(script.handed) == 1


def test_an_attempt_that_nats_refuses_ends_the_request() -> None:
    script = Script(["d", "e"])

    script.on(Unstored("0", "full"))

    assert (script.problem, len(script.handed), len(script.aborted)) == ("unavailable", 1, 1)
    assert script.ruled == [Failed(EngineLost("NATS is away (full): try again", sent=False))]


def test_an_attempt_of_which_nats_says_nothing_is_published_again_and_ends_the_request_in_the_end() -> None:
    script = Script(["d"])

    assert not script.passes(UNHEARD_MS - 1)
    assert script.passes(1) == [Publish(script.request.assignment)]
    while script.now < STORE_MS - 1000:
        script.passes(1000)
    before = len(script.handed)
    script.passes(1000)

    assert (script.problem, len(script.handed)) == ("unavailable", before)
    assert {assignment.token for assignment in script.handed} == {"0"}


def test_an_attempt_that_nats_cannot_store_while_it_elects_a_leader_is_published_again() -> None:
    script = Script(["d", "e"])

    assert not script.on(Unstored("0", "no stream", passes=True))
    assert not script.passes(AGAIN_MS - 1)
    again = script.passes(1)
    script.on(Stored("0"))

    assert again == [Publish(script.request.assignment)]
    assert not script.passes(PICK_UP_MS - 1)
    script.says(WHOLE)
    assert script.told == [WHOLE]


def test_an_attempt_that_nats_cannot_store_for_long_ends_the_request() -> None:
    script = Script(["d"])

    while script.now < STORE_MS:
        script.on(Unstored("0", "no stream", passes=True))
        script.passes(AGAIN_MS)

    assert script.ruled == [Failed(EngineLost("NATS is away (no stream): try again", sent=False))]


def test_a_refusal_that_comes_late_ends_no_request_that_was_published_again() -> None:
    script = Script(["d"])
    script.passes(UNHEARD_MS)

    assert not script.on(Unstored("0", "full"))
    script.on(Stored("0"))
    script.says(WHOLE)

    assert (len(script.handed), script.told) == (2, [WHOLE])


def test_a_refusal_that_comes_after_it_was_stored_ends_no_request() -> None:
    script = Script(["d"])
    script.passes(UNHEARD_MS)
    script.on(Stored("0"))

    assert not script.on(Unstored("0", "full"))
    script.says(WHOLE)

    assert script.told == [WHOLE]


def test_a_request_ends_once_nats_has_refused_it_as_often_as_it_was_published() -> None:
    script = Script(["d"])
    script.passes(UNHEARD_MS)

    assert not script.on(Unstored("0", "full"))
    script.on(Unstored("0", "full"))

    assert script.problem == "unavailable"


def test_what_nats_says_of_an_attempt_that_a_worker_has_does_no_harm() -> None:
    script = Script(["d"])
    script.says(KeptAlive())

    assert not script.on(Unstored("0", "late"))
    script.says(WHOLE)

    assert script.told == [KeptAlive(), WHOLE]


@pytest.mark.parametrize("late", [Unstored("0", "late"), Said("0", WHOLE), Said("0", FAULT), Said("0", PIECE)])
def test_what_is_said_of_an_earlier_attempt_does_no_harm_to_the_next(late: Event) -> None:
    script = Script(["d", "e", "f"])
    script.says(FAULT)

    assert not script.on(late)
    script.says(WHOLE)

    assert (script.told, len(script.handed)) == ([WHOLE], 2)


def test_a_caller_that_left_is_told_nothing_and_its_worker_is_stopped() -> None:
    script = Script(["d"])

    script.on(CallerLeft())

    assert (script.told, script.ruled, len(script.aborted)) == ([], [Cancelled()], 1)


@pytest.mark.parametrize(
    ("event", "code"), [(CallerBehind(), "too_slow"), (CancelAsked(), "cancelled"), (Stopping(), "broker_stopped")]
)
def test_a_request_that_cannot_go_on_is_answered_and_its_worker_is_stopped(event: Event, code: str) -> None:
    script = Script(["d", "e"])

    script.on(event)

    assert (script.problem, script.ruled, len(script.aborted)) == (code, [Cancelled()], 1)


def test_a_request_whose_model_is_gone_is_told_so() -> None:
    script = Script(["d"], none_left=ModelGone())

    script.passes(PICK_UP_MS)

    assert script.problem == "unavailable"
    script = Script(["d"], none_left=ModelGone())
    script.on(Stored("0"))
    script.passes(PICK_UP_MS)
    assert script.problem == "unknown_model"


def test_a_report_is_the_end_of_a_request_if_no_other_attempt_could_follow() -> None:
    ends: list[Outcome] = [a_success(), Failed(BadRequest("x"))]
    others: list[Outcome] = [Failed(EngineFault("x")), Expired(), Released(), Cancelled()]

    assert all(ends_request(outcome) for outcome in ends)
    assert not any(ends_request(outcome) for outcome in others)


# any order of events

words = st.sampled_from([KeptAlive(), PIECE, WHOLE, FAULT, REFUSAL])
tokens = st.integers(0, 4).map(str)
events = st.one_of(
    st.builds(Said, tokens, words),
    st.builds(Stored, tokens),
    st.builds(Unstored, tokens, st.just("full")),
    st.sampled_from([CallerLeft(), CallerBehind(), CancelAsked(), Stopping()]),
)
steps = st.one_of(events, events, st.integers(0, 12_000))
"""An event, or so many milliseconds that pass."""


def deployments_are_lost(script: Script, at: int) -> None:
    """Half of the route goes away in the middle of the request."""
    if at == 2:
        del script.route[1::2]


def running(done: Sequence[Action | Event]) -> Iterator[set[str]]:
    """The tokens of the attempts that may run, after each action or event."""
    alive = set[str]()
    for one in done:
        match one:
            case Publish(handed):
                alive.add(handed.token)
            case Abort(handed):
                alive.discard(handed.token)
            case Said(token, Answered() | Erred()):
                alive.discard(token)
        yield set(alive)


@settings(max_examples=500)
@given(st.integers(1, 4), st.lists(steps, max_size=25), st.sampled_from([NoRoom([]), ModelGone()]))
def test_in_any_order_of_events_a_request_has_one_end_and_one_attempt_at_a_time(
    count: int, steps: list[Event | int], none_left: NotPlaced
) -> None:
    script = Script([f"d{number}" for number in range(count)], none_left)
    history: list[Action | Event] = list(script.done)

    for at, step in enumerate([*steps, DEADLINE_MS]):
        deployments_are_lost(script, at)
        event: Event = Ticked() if isinstance(step, int) else step
        script.now += step if isinstance(step, int) else 0
        was_over = script.request.is_over
        history.append(event)
        actions = script.on(event)
        history += actions
        assert not (was_over and actions)

    left = CallerLeft() in history
    ends = [word for word in script.told if isinstance(word, Answered | Erred)]
    assert script.request.is_over
    assert len(ends) == 1 or (left and not ends)
    assert not ends or script.told[-1] is ends[0]
    assert all(len(alive) <= 1 for alive in running(history))
    assert not list(running(history))[-1], "an attempt was left running"
    assert len(script.ruled) == (0 if ends == [WHOLE] else 1)
    places = [handed.attempt.deployment for handed in dict.fromkeys(script.handed)]
    assert len(set(places)) == len(places) == script.handed[-1].attempt.number


@given(st.integers(1, 4), st.lists(steps, max_size=25))
def test_nothing_of_a_second_attempt_follows_what_was_streamed(count: int, steps: list[Event | int]) -> None:
    script = Script([f"d{number}" for number in range(count)])

    for step in steps:
        script.now += step if isinstance(step, int) else 0
        script.on(Ticked() if isinstance(step, int) else step)

    pieces = [place for place, word in enumerate(script.told) if isinstance(word, Streamed)]
    begins = [place for place, word in enumerate(script.told) if isinstance(word, Started)]
    published = [place for place, action in enumerate(script.done) if isinstance(action, Publish)]
    streamed = [
        place for place, action in enumerate(script.done) if isinstance(action, Tell) and action.message == PIECE
    ]
    assert begins == [place - 1 for place in pieces[:1]]
    assert not streamed or max(published) < streamed[0]


def test_when_its_worker_dies_a_request_goes_on_apart_and_waits_there_without_a_sign_of_life() -> None:
    script = Script(["d"], apart="w")

    script.dies()

    first, again = script.handed
    assert (first.worker, first.attempt.group) == (None, None)
    assert (again.worker, again.attempt.group, again.attempt.number) == ("w", again.attempt.job, 2)
    assert script.aborted == [first]
    assert script.passes(999) == ()
    assert script.passes(1) == [Tell(KeptAlive())]
    assert script.passes(PICK_UP_MS + STORE_MS) == [Tell(KeptAlive())]
    script.says(WHOLE)
    assert script.told == [KeptAlive(), KeptAlive(), WHOLE]


def test_the_death_of_the_worker_of_an_earlier_attempt_does_nothing_to_the_present_one() -> None:
    script = Script(["d"], apart="w")
    first = script.request.assignment.token
    script.dies()

    assert script.on(WorkerDied(first)) == ()
    script.says(WHOLE)
    assert (len(script.handed), script.told) == (2, [WHOLE])


def test_a_request_that_runs_apart_is_lost_when_its_worker_falls_silent() -> None:
    script = Script(["d"], apart="w")
    script.dies()
    script.says(KeptAlive())
    script.apart = None

    script.passes(SILENCE_MS)

    assert script.problem == "worker_lost"


@pytest.mark.parametrize(
    ("none_left", "code"), [(NoRoom([]), "worker_lost"), (Poison(2), "poison"), (ModelGone(), "unknown_model")]
)
def test_a_request_whose_worker_died_and_that_cannot_go_on_says_why(none_left: NotPlaced, code: str) -> None:
    script = Script(["d"], none_left=none_left)

    script.dies()

    assert (script.problem, len(script.aborted)) == (code, 1)


def test_a_request_of_which_a_piece_was_streamed_does_not_run_again_when_its_worker_dies() -> None:
    script = Script(["d"], apart="w")
    script.says(PIECE)

    script.dies()

    assert (script.problem, len(script.handed)) == ("worker_lost", 1)


def test_a_request_whose_ward_is_not_there_goes_on_elsewhere() -> None:
    script = Script(["d"], apart="w")
    script.dies()

    script.on(Unstored(script.request.assignment.token, "no stream"))

    assert [handed.worker for handed in script.handed] == [None, "w", "w"]


# waiting for a slot


def waiting(route: str = "d", **changes: object) -> Script:
    return Script([route], waits=True, **changes)  # type: ignore[arg-type]


def offered(deployment: str = "d", token: str = "t") -> TurnCame:  # noqa: S107 - the name of an attempt
    return TurnCame(Placement(deployment, token, WorkerId("w")))


FULL = NoRoom([], ("e",))
"""Another deployment would take it, if it had a free slot."""


def test_a_request_without_a_slot_waits_and_its_caller_is_told_that_it_lives() -> None:
    script = waiting()

    assert (script.done, script.request.waits) == ([], True)
    assert script.passes(KEEPALIVE_MS - 1) == ()
    assert script.passes(1) == [Tell(KeptAlive())]
    assert script.passes(1) == ()


def test_a_request_whose_turn_came_begins_where_the_slot_is() -> None:
    script = waiting()
    script.passes(700)

    script.on(offered("e"))

    [begun] = script.handed
    assert (begun.attempt.deployment, begun.attempt.number, begun.worker, begun.attempt.group) == ("e", 1, "w", None)
    assert (begun.attempt.dispatched_ms, begun.attempt.left_ms) == (700, DEADLINE_MS - 700)
    assert not script.request.waits
    script.says(WHOLE)
    assert script.told == [WHOLE]


def test_a_request_that_is_turned_back_waits_again_and_no_attempt_is_counted() -> None:
    script = Script(["d"])

    assert script.says(TurnedBack()) == ()
    assert script.request.waits

    script.on(offered())
    assert [one.attempt.number for one in script.handed] == [1, 1]
    assert (script.aborted, script.ruled, script.told) == ([], [], [])


def test_nothing_of_an_attempt_that_is_over_touches_a_request_that_waits() -> None:
    script = Script(["d"])
    token = script.request.assignment.token
    script.says(TurnedBack())

    for event in (Said(token, WHOLE), Said(token, FAULT), Stored(token), Unstored(token, "x"), WorkerDied(token)):
        assert script.on(event) == ()
    assert script.passes(STORE_MS + PICK_UP_MS) == [Tell(KeptAlive())]


def test_a_wait_ends_with_the_deadline_and_nothing_is_aborted() -> None:
    script = waiting()

    script.passes(DEADLINE_MS)

    assert (script.problem, script.ruled, script.aborted) == ("timed_out", [Expired()], [])


@pytest.mark.parametrize(
    ("event", "told"),
    [(CallerLeft(), None), (CancelAsked(), "cancelled"), (Stopping(), "broker_stopped")],
    ids=["left", "cancelled", "stopped"],
)
def test_a_wait_ends_when_nobody_wants_the_answer_or_the_broker_stops(event: Event, told: str | None) -> None:
    script = waiting()

    script.on(event)

    assert (script.ruled, script.aborted, script.request.is_over) == ([Cancelled()], [], True)
    assert [end.problem.code for end in script.told if isinstance(end, Erred)] == ([] if told is None else [told])


def test_a_wait_in_vain_ends_with_what_holds_the_request() -> None:
    script, problem = waiting(), Problem("paused", "m is paused")

    script.on(TurnDenied(problem))

    assert script.told == [Erred(problem)]
    assert script.ruled == [Failed(EngineLost("m is paused", sent=False))]


def test_a_request_that_failed_waits_for_another_deployment_that_is_full() -> None:
    script = Script(["d"], none_left=FULL)

    assert script.says(FAULT) == ()
    assert (script.request.waits, list(script.request.tried)) == (True, ["d"])

    script.on(offered("e"))
    assert [(one.attempt.deployment, one.attempt.number) for one in script.handed] == [("d", 1), ("e", 2)]
    script.says(WHOLE)
    assert (script.told, script.ruled) == ([WHOLE], [])


def test_a_request_that_failed_and_waits_in_vain_is_recorded_as_it_failed() -> None:
    script = Script(["d"], none_left=FULL)
    script.says(FAULT)

    script.on(TurnDenied(Problem("no_worker", "nobody")))

    assert script.ruled == [Failed(EngineFault("x"))]


def test_a_request_whose_attempt_is_lost_aborts_it_and_waits() -> None:
    script = Script(["d"], none_left=FULL)
    script.says(KeptAlive())

    script.passes(SILENCE_MS)

    assert (script.aborted, script.request.waits) == (script.handed, True)


def test_an_offer_whose_worker_is_gone_or_hears_nothing_lets_the_request_wait_again() -> None:
    gone, deaf = waiting(), waiting()
    gone.on(offered())
    deaf.on(offered())

    gone.on(Unstored("t", "no stream"))
    deaf.passes(UNHEARD_MS)

    for script in (gone, deaf):
        assert (script.request.waits, script.aborted, list(script.request.tried)) == (True, script.handed, [])


def test_an_offer_to_a_request_that_does_not_wait_changes_nothing() -> None:
    script = Script(["d"])

    assert script.on(offered()) == ()
    assert script.on(TurnDenied(Problem("busy", "x"))) == ()
    assert len(script.handed) == 1
