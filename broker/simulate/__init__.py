"""The real roles in a world of virtual time: one process, one seed, the same story each time.

world         virtual time, chance, and processes that die
nats          a NATS server in memory                ledger      a ledger in memory
network       the way to the server                  timers      the time of the world, as its servers need it
cast          brokers, workers, callers              api         answers calls as the door does, without FastStream
system        all of them together                   faults      what goes wrong
checks        what must hold                         run         one seed, from its beginning to the comparison
apart         seeds in processes, and shrinking      scenarios   seeds and faults that are kept by name
"""
