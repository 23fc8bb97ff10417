"""Measures what the cancel of a large batch costs others: `python -m tests.cancelling [JOBS]`.

fill.sql    a batch of a million jobs that wait (or as many as are asked for), made by SQL
__main__    runs a whole system, has another batch dispatched meanwhile, and compares the rates before and during the cancel
"""
