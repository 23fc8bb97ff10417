"""Accounts and keys: who may connect to NATS, and what of it reaches whom.

nats             a NATS server that asks brokers, and connections to it in every account
walked           a guarded system with two tenants, two deployments and a key of each role
walked_subjects  all subjects there are, who may publish on them and who may hear them
walked_verbs     calls of every verb about the things of any tenant
walked_routes    requests of every route of the API over HTTP about the things of any tenant
walked_ledger    whether somebody has changed the ledger
"""
