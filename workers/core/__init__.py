"""What a worker decides: pure functions of plain values.

leases    when a lease is extended, and when an attempt is not run or ended
capacity  how many slots an engine has now, and how many outcomes may wait beside free ones
pause     when an API that serves nobody is left alone
body      the fields of OpenAI's requests and responses: read, set, counted
answers   what an API's status, headers and errors mean
sse       the events of a stream, from the pieces that come in
assembly  the response that the pieces of a stream add up to
"""
