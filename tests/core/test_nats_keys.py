import pytest
from nacl.public import PublicKey

from broker.core.accounts import BROKERS_LIVE_IN, CROSSINGS, Account
from broker.core.nats_config import nats_config
from broker.core.nats_keys import BadSecret, NatsKeys, raw_curve, text_of

SECRET = bytes(range(32))
KEYS = NatsKeys(SECRET)


def test_a_secret_is_read_as_it_was_written() -> None:
    assert NatsKeys.of_text(f"{text_of(SECRET)}\n").public_issuer == KEYS.public_issuer


@pytest.mark.parametrize("text", ["", "short", "ü" * 43, text_of(b"x" * 31), text_of(b"x" * 33), "!" * 44])
def test_what_is_no_secret_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(BadSecret) as refused:
        NatsKeys.of_text(text)
    assert not text or text not in str(refused.value)


def test_each_key_is_another() -> None:
    public = {KEYS.public_issuer, KEYS.public_curve, *map(KEYS.public_user, Account)}
    assert len(public) == 2 + len(Account)
    assert KEYS.public_issuer != NatsKeys(b"x" * 32).public_issuer


def test_a_public_curve_key_is_read_as_it_was_written() -> None:
    assert PublicKey(raw_curve(KEYS.public_curve)) == KEYS.curve.public_key
    for wrong in ("", KEYS.public_issuer, f"{KEYS.public_curve[:-1]}A", KEYS.public_curve[:-4]):
        with pytest.raises(ValueError, match=r"."):
            raw_curve(wrong)


def test_the_configuration_holds_nothing_secret() -> None:
    text = nats_config(KEYS)
    secrets = [text_of(SECRET), KEYS.issuer.seed.decode(), *map(KEYS.user_seed, Account)]
    assert [one for one in secrets if one in text or one in repr(KEYS)] == []


def test_only_brokers_live_where_the_streams_are() -> None:
    text = nats_config(KEYS)
    assert text.count("jetstream: enabled") == 1
    assert [KEYS.public_user(one) in text for one in Account] == [one in BROKERS_LIVE_IN for one in Account]
    assert KEYS.public_user(Account.WORKERS) not in text


def test_whatever_crosses_is_exported_and_imported_once() -> None:
    text = nats_config(KEYS)
    for one in CROSSINGS:
        assert text.count(f'"{one.subject}"') == 2, one
        assert one.of is Account.BROKERS, "everything else would let others publish where brokers listen"
