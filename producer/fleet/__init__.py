"""What an operator's tools read of the fleet: metrics for Prometheus."""
