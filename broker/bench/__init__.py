"""`infermq bench`: measures how fast it is, on the machine at hand.

bulk         jobs from submission to settlement      floor   the bare pipeline, which bulk is compared with
interactive  latency of requests                     echo    the bare responder, which interactive is compared with
file         a batch of a large file over HTTP
http         requests over HTTP                      gateways/  what http is compared with: bare pipeline, LiteLLM, SMG
saturation   a real engine kept busy                 peers/  other task queues, which bulk is compared with
keys         what keys cost
small        dispatch, submit, idle                  system  what benchmarks run on
figure       what every benchmark prints             cpu     CPU time by process

Only `broker.cli.bench` and tests import from here.
"""
