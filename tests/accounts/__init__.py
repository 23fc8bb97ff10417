"""Accounts and keys: who may connect to NATS, and what of it reaches whom."""
