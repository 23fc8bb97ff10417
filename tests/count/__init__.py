"""What a job and a request cost, counted rather than timed, and held against what they cost before.

`python -m tests.count` counts SQL statements, NATS messages, their bytes and Python calls on a real system, and fails
where a figure is more than 2 % above the one that is kept in `kept.toml`. `python -m tests.count cpu OLD NEW` compares
the CPU time of two checkouts, which noise does touch, in interleaved pairs.
`python -m tests.count --keys` shows what keys add to each figure.

    counted   a process of the system that counts its own Python calls
    system    NATS, Postgres, a broker and a worker, and what they have spent so far
    rounds    the bulk and the interactive path, one round at a time, and what a round costs
    kept      the figures: kept in a file, compared, shown
    cpu       CPU time of a job in two checkouts, in interleaved pairs
"""
