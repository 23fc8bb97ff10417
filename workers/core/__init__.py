"""What a worker decides: pure functions of plain values.

leases   when to extend, when to give up, what a redelivery means
"""
