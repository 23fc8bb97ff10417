"""What the broker decides: pure functions of plain values. No I/O, no clock, no randomness, no logging.

records   the values that decisions are made of and the ledger stores
"""
