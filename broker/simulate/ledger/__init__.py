"""A ledger in memory, which does what the one on Postgres does (`tests/contract/ledger` runs over both).

stored        a row of each table          table          tables and indexes, of which a transaction changes all or nothing
tables        all of them, with triggers   transactions   a method as one transaction, with a gate before and behind it
locks         rows that are held           connection     what areas of `broker.ledger` run on, in place of Postgres
statements    the statements of those      control        the areas that run so
areas         opens all for a process      blobs          the content of files

The areas of the work path have modules of their own, named like those on Postgres, and so have the parts that they share:

intake        days        backlog     attempts    suspects    settlement   leadership   seal_keys
spend         batches     jobs        selection   controls    catalogs     status       sums
cancels       audit       copies      counts      failures
"""
