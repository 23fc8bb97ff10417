"""The processes of a simulated world: the real broker and worker, and those who use them.

brokers       all roles of a broker                workers     the worker, with the engine `simulated`
callers       producers, callers and operators, and what they were told
catalogs      what they serve                      hooks       the endpoint of a webhook
gate          the way to the ledger                processes   what each process needs
"""
