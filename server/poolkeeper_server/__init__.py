"""The Poolkeeper daemon: grants seats from licence pools over gRPC and keeps their ledger."""
