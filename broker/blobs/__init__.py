"""The stores of the content of files beside Postgres.

stores     opens the store of a setting, and those that earlier files are in
directory  keeps content in a directory
bucket     keeps content in a bucket of an S3-compatible service
pieces     packs a piece, as every store keeps it
errors     what goes wrong with them, in our words

Only the ledger, commands and tests import from here.
"""
