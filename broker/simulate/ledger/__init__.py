"""A ledger in memory, which does what the one on Postgres does (`tests/contract/ledger` runs over both).

The areas of `broker.ledger` run as they are, over a connection for which each statement is a function over tables in memory.

areas         opens all areas of `broker.ledger` for a process
connection    stands in for Postgres       statements     a function for each statement
stored        a row of each table          table          tables and indexes, of which a transaction changes all or nothing
tables        all of them, with triggers   transactions   a method as one transaction, with a gate before and behind it
locks         rows that are held           checks         refuses values that Postgres cannot store
blobs         the content of files         days           drops a day
sums          compares the tables with each other
"""
