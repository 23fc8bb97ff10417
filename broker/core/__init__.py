"""The broker's decisions, without I/O, clock, chance or logging. Most are pure functions of plain values; a few objects
keep state that the one role that uses them owns (Order, Backlog, Outstanding, Presence, Silence, RequestState).

Each question is answered in one place:

principal    who calls
keys         what is known of API keys, and who shows one
grants       what a new key may do
permissions  what a connection to NATS may publish and hear
accounts     the accounts of NATS, and what crosses from one to another
nats_keys    the keys that brokers show and sign with at NATS
nats_config  what a NATS server must be configured with
authorise    who may do what
admit        whether a job may run: its ledger entry, waiting or refused
body         whether a request body is acceptable
route        which deployments may run a job
pools        what each deployment can take now, what holds it, and the words for that
fallbacks    when a model falls back to its spares, and when its regular deployments are back
controls     what may not start because somebody paused or cancelled it
backlog      which waiting jobs have been read ahead, flow by flow
fairness     which waiting job runs next, and where
presence     which workers are there, which have died, and when nobody holds a delivered attempt
outstanding  which attempts are dispatched and not settled
relay        what follows each event of an interactive request
request_suspects  which interactive requests may end their workers
line         which of the requests that wait gets the next free slot, and how many may wait
reserve      which deployment takes an interactive request
settle       what becomes of a job on a worker's report or a broker's ruling
suspects     who is suspected when a worker dies, who runs apart next, and who is convicted
ruling       which attempts a broker puts back, and what a ruling does to its job
change       which changes of jobs that wait may be made
retry        whether a failed job may be tried again, by the policy of its model
backoff      how long it waits before that
price        what an execution cost
estimate     what one will cost, or has cost if nobody can report it
seals        whether a broker made what a report or a ruling is about
lost         what is recorded of an execution whose worker died
limits       what may still be spent in a day
replay       which model a replayed job runs on, and what replays cost
compare      what a job and its repetition came to, side by side
repeat       makes the jobs that repeat others, with what is changed of them
instructions what a page of an order over many jobs starts from, and comes to
dead_letters what is said of dead letters, and what is sent when one is requeued
explain      puts what holds jobs into status and `job show`
revisions    which revision of the catalog is in force
readiness    which doors of a broker can serve, and why the others cannot
dialects     how other APIs ask and answer, translated to and from chat completions
file_stores  where the content of files is kept
files        the pieces in which the content of files is kept
file_lines   where the expansion of a file into jobs stands, and the next page of it
batch_output what a batch came to, as the lines of OpenAI's two files
openai_batch files and batches as the objects of OpenAI's API
targets      where webhooks may go
webhooks     what webhooks are told, how it is signed, and when it is sent again
records      the values that decisions are made of and the ledger stores
"""
