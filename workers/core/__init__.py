"""Decides for a worker: pure functions of plain values.

leases    when to extend a lease, when not to run an attempt, and when to end one
capacity  how many slots an engine has now, and how many outcomes may be held back while slots are free
wanted    which relays are offered the slots that come free while requests wait
bounds    keeps what an engine says within the bounds of the wire
pause     how long to send nothing after a refused key, a throttle or an outage, and how to try again
readiness what a worker takes now, and why not the rest
body      reads, sets and counts the fields of OpenAI's requests
constraints checks that an answer is what its request demanded
reasoning tells when a model reasoned until its token limit, and answered nothing
usage     reads what a response says was used and charged
address   builds the addresses of an API's endpoints
api_error finds the error in an API's answer
alike     notices that an API answers everything alike
answers   turns an API's status, headers and errors into a failure
sse       splits the bytes of a stream into events
assembly  assembles the response from the pieces of a stream
made_up   makes up JSON by a schema
"""
