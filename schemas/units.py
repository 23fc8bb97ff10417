"""Units, and the types that bound what comes from outside.

Money and time are integers; the unit is in the type and in the name.

A message can be made by anybody who may publish. A field of one of the bounded types refuses, while it is decoded, what the
ledger cannot store or nobody can mean. The bounds are far above what is real, and far below what Postgres's columns hold, so
that sums stay in range too.
"""

from typing import Annotated, NewType

from msgspec import Meta

Ms = NewType("Ms", int)
"""Milliseconds: an instant since the Unix epoch, or a duration; the name says which."""

NanoUsd = NewType("NanoUsd", int)
"""10^-9 US dollars."""

MOST_TOKENS = 10**9
MOST_ATTEMPTS = 1_000_000
MOST_NANO_USD = NanoUsd(10**13)
"""10,000 USD: the most that one execution costs."""
LONGEST_NAME = 200
"""The most characters of the name of a model, deployment, tenant, key or process."""
LONGEST_TEXT = 4096
"""The most characters of a text for people, such as the message of a failure."""
LONGEST_SUBJECT = 2000
"""A subject, a reply subject and sizes must fit into a control line, of which the server reads 4096 bytes."""

_END = r"(?![\s\S])"
"""The very end. (`$` also matches before a last line feed.)"""
NO_NUL = r"^[^\x00]*" + _END
"""Postgres stores no NUL in a text. (Lone surrogates, which UTF-8 cannot hold, are refused by every decoder.)"""
_PART = r"[^\s.*>\x00-\x20\x7f]+"
SUBJECT = rf"^{_PART}(?:\.{_PART})*{_END}"
"""Tokens without wildcards, white space and control characters. NATS ends a subject or a whole command at those."""
_NUMBERS = r"([0-9]{1,9})\.([0-9]{1,18})\.[0-9]{1,18}\.([0-9]{1,19})\.([0-9]{1,18})"
"""Deliveries, sequence in the stream, that of the consumer, nanoseconds, messages still to deliver."""
ACK = rf"^\$JS\.ACK\.({_PART}\.{_PART}\.)?({_PART})\.({_PART})\.{_NUMBERS}(?(1)(?:\.{_PART})?){_END}"
"""An ack subject. One with a domain and an account may have another token at its end."""
RUN_ACK = rf"^\$JS\.ACK\.(?:{_PART}\.{_PART}\.)?INFERMQ_RUN\.{_PART}\.{_NUMBERS}(?:\.{_PART})?{_END}"

Instant = Annotated[Ms, Meta(ge=0, le=253_402_300_799_999)]
"""An instant from 1970 to 9999."""
DurationMs = Annotated[Ms, Meta(ge=0, le=10**13)]
"""A duration of up to 300 years: between two wrong clocks it can be very long."""
Tokens = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
MOST_DEATHS = 1000
Cost = Annotated[NanoUsd, Meta(ge=0, le=MOST_NANO_USD)]
ByteCount = Annotated[int, Meta(ge=0, le=10**15)]
AttemptNumber = Annotated[int, Meta(ge=1, le=MOST_ATTEMPTS)]
DeliveryCount = Annotated[int, Meta(ge=1, le=10**9)]
DeathCount = Annotated[int, Meta(ge=0, le=MOST_DEATHS)]
"""How often a job's worker has died."""
SlotCount = Annotated[int, Meta(ge=0, le=1_000_000)]
"""How many attempts a worker has room for, or runs."""
Seal = Annotated[bytes, Meta(max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME, pattern=NO_NUL)]
Text = Annotated[str, Meta(max_length=LONGEST_TEXT, pattern=NO_NUL)]
Subject = Annotated[str, Meta(max_length=LONGEST_SUBJECT, pattern=SUBJECT)]
"""A subject to publish on."""
RunAck = Annotated[str, Meta(max_length=LONGEST_SUBJECT, pattern=RUN_ACK)]
"""The subject that acknowledges a message of RUN."""
