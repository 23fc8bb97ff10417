"""Virtual time, chance, and processes that are killed, stopped and started.

world         who makes the next step, and what time it is
loop          the event loop of one process
waiting       where tasks wait, and what notices it
story         what happens, an event a line
"""
