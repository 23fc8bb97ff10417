"""`infermq bench`: how fast it is, on the machine at hand.

bulk      submitted → settled, and what each process spends on a job
figure    what every benchmark prints
"""
