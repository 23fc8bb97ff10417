"""Virtual time, chance, and processes that are killed, stopped and started.

world         who makes the next step, and what time it is
loop          the event loop of one process
story         what happens, an event a line
"""
