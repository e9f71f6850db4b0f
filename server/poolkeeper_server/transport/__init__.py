"""gRPC and HTTP: takes bytes, asks the services, gives bytes."""
