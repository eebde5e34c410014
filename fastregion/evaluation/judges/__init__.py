"""What answers messages: an endpoint, a local model, a record."""
