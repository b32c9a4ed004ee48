"""The HTTP API in front of Prefect: accepts runs durably, hands them over once, tells what became of them."""
