"""The real roles in a world of virtual time: one process, one seed, the same story each time.

world         virtual time, chance, and processes that die
nats          a NATS server in memory                ledger      a ledger in memory
network       the way to the server                  timers      the time of the world, as its servers need it
cast          brokers, workers, callers              api         answers calls as the door does, without FastStream
system        all of them together                   faults      what goes wrong, as a schedule
invariants    what must hold                         starts      what must hold whenever a job starts
requests      what must hold of requests           noted       what NATS took of them, and when something was wrong
records       what must be on record                 run         one seed, from its beginning to the comparison
apart         seeds in processes, and shrinking      scenarios   seeds and faults that are kept by name
waits         where code of ours waits, and a process may die
ends          what must hold whenever a job ends
held          what a process holds                   leftovers   what it holds too much of once all is quiet
read_checks   what must hold of results that were read
file_checks   what must hold of files, and of batches that were made of them
"""
