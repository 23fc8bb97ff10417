"""The producer in JavaScript: run where Node.js and its packages are, skipped elsewhere (`make test-node`)."""
