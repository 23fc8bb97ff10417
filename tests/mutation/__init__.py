"""Whether the tests notice when the code is broken: `make mutate`. Not part of CI.

removals      one promise taken out by each patch file in `removals/`, and the tests that must notice
seeded        a sample of all small wrong edits, tried one at a time; a table of what was noticed, by place
edits         the small wrong edits of Python source; sql_edits, those of SQL
equivalents   edits that change nothing that anybody could see, with the reason
relevance     which tests run which line
tree          a copy of the source that may be broken, and the tests run in it

Kept tools (mutmut, cosmic-ray) edit Python only, and know nothing of tests that share servers.
"""
