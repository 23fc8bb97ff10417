"""What must hold in a simulated world: at each change, again and again, and once everything is quiet.

promises    what producers and callers were promised     records     what must be on record, and what it costs
starts      whenever a job starts                         ends        whenever a job ends
requests    what a request may come to                    noted       what NATS took of requests, and troubles
results     results that were read while batches ran      files       files, and batches that were made of them
held        what a process holds                          leftovers   what it holds too much of once all is quiet
"""
