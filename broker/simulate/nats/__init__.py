"""A NATS server in memory, and connections to it, for runs with virtual time.

server        the server: connections, messages and streams, as one machine of state
session       its end of a connection
interest      who hears which subject
api           its answers to requests to JetStream's API
direct        its answers to direct gets
stream        a stream
batches       the atomic batches that a stream is being sent
store         the messages of a stream
consumer      a pull consumer
pulls         the pulls that wait at a consumer
settings      the settings of streams and consumers, completed and checked
refusals      the errors of JetStream's API
times         instants and durations as the server writes them
wire          headers, status lines and commands as they are on the wire
faults        what NATS may do to those who use it
link          the way between a connection and the server
connection    a client's connection
subscription  a client's subscription and its messages
"""
