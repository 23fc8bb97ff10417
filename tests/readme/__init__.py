"""What README says, done as it is typed, in an empty home (`make test-readme`)."""
