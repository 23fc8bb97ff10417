"""Measures how long lists take on a large ledger: `python -m tests.listing`.

fill.sql    a ledger of a million jobs (or as many as are asked for), made by SQL
__main__    starts a Postgres, fills it, and asks for each list as a service does
"""
