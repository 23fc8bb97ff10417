"""A ledger in memory, which does what the one on Postgres does (`tests/contract/ledger` runs over both).

stored        a row of each table          table          tables and indexes, of which a transaction changes all or nothing
tables        all of them, with triggers   transactions   a method as one transaction, with a gate before and behind it
locks         rows that are held           connection     what areas of `broker.ledger` run on, in place of Postgres
statements    the statements of those      control        the areas that run so
blobs         the content of files
"""
