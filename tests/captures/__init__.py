"""Shows what every command prints: `python -m tests.captures OUT` writes it to files, to be read as a new user would.

scene      a system with something of everything: batches, failures, retries, dead letters, pauses
uses       for each command: how it is used, and five ways to use it wrongly
screen     runs a command on a terminal of a given width, or in a pipe, and returns what it printed
runner     the process that screens are made in: it forks for each, which spares the second that Python takes to start
__main__   writes the captures
"""
