"""The real roles in a world of virtual time: one process, one seed, the same story each time.

world         virtual time, chance, and processes that die
api           answers calls as the door does, without FastStream
ledger        a ledger in memory
nats          a NATS server in memory
timers        the time of the world, as its servers need it
"""
