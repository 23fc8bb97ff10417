"""What needs vLLM: run where it is installed, skipped elsewhere (`make test-vllm`)."""
